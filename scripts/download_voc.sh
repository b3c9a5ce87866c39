#!/usr/bin/env bash
# Download Pascal VOC 2007 and 2012 in the layout that data=voc expects: `scripts/download_voc.sh DIR` (DIR/VOCdevkit).
#
# Downloads missing parts, resumes interrupted downloads, compares every archive with its published MD5 sum, lists it, and
# counts the files after unpacking.
set -euo pipefail

usage() {
    cat <<'END'
usage: scripts/download_voc.sh DIR [--only-2007] [--keep] [--no-checksum]

Downloads Pascal VOC 2007 (trainval, test) and 2012 (trainval) to DIR/VOCdevkit/VOC2007 and DIR/VOCdevkit/VOC2012.
  --only-2007     without 2012: 0.9 GB
  --keep          keep the archives after unpacking
  --no-checksum   for archives that a mirror has packed again; they are still listed from end to end
Disk: 3 GB; 5 GB while the archive of 2012 is being unpacked.
Running it again resumes an interrupted download and does nothing if all files exist. VOC_URL sets another mirror, which
has voc2007/ and voc2012/ with the archives.
END
}

say() { printf '%s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

target="" ; with_2012=true ; keep=false ; checksum=true
for argument in "$@"; do
    case "$argument" in
        -h|--help) usage; exit 0 ;;
        --only-2007) with_2012=false ;;
        --keep) keep=true ;;
        --no-checksum) checksum=false ;;
        -*) usage >&2; fail "unknown option $argument" ;;
        *) [[ -z "$target" ]] || fail "two folders given: $target and $argument; give one"; target="$argument" ;;
    esac
done
[[ -n "$target" ]] || { usage >&2; fail "no folder given; use scripts/download_voc.sh DIR"; }

url="${VOC_URL:-http://host.robots.ox.ac.uk/pascal/VOC}"
command -v tar >/dev/null || fail "tar is not installed; install it"
if command -v curl >/dev/null; then
    fetch() { curl --fail --location --retry 5 --retry-delay 5 --continue-at - --output "$2" "$1"; }
elif command -v wget >/dev/null; then
    fetch() { wget --continue --tries=5 --output-document="$2" "$1"; }
else
    fail "neither curl nor wget is installed; install one"
fi
if command -v md5sum >/dev/null; then
    md5() { md5sum < "$1" | cut -d ' ' -f 1; }
elif command -v md5 >/dev/null; then  # macOS
    md5() { command md5 -q "$1"; }
else
    $checksum && fail "neither md5sum nor md5 is installed; install one, or add --no-checksum"
fi

mkdir -p "$target"
archives="$target/archives"

need_megabytes() {
    local free
    free=$(df -Pk "$target" | awk 'NR == 2 { print int($4 / 1024) }')
    (( free >= $1 )) || fail "$target has $free MB free, $2 needs $1 MB; free some space or give another folder"
}

# Whether the image list of a year (a text file, one image per line) is there with this many images, and all of them are.
holds() {
    local list="$target/VOCdevkit/$1/ImageSets/Main/$2.txt"
    [[ -f "$list" ]] && (( $(grep -c . "$list") == $3 )) || return 1
    local absent
    absent=$(awk '{ print $1 }' "$list" | while read -r name; do
        [[ -s "$target/VOCdevkit/$1/JPEGImages/$name.jpg" && -s "$target/VOCdevkit/$1/Annotations/$name.xml" ]] \
            || { echo "$name"; break; }
    done)
    [[ -z "$absent" ]]
}

# get ADDRESS MD5 MEGABYTES YEAR LIST COUNT: download an archive, check it, unpack it, check the files of a list.
get() {
    local address="$url/$1" sum="$2" megabytes="$3" year="$4" list="$5" count="$6"
    local name="${1##*/}" file="$archives/${1##*/}"
    if holds "$year" "$list" "$count"; then
        say "$year $list: already complete"
        return
    fi
    mkdir -p "$archives"
    if [[ ! -f "$file.complete" ]]; then
        need_megabytes "$megabytes" "$name"
        say "$name: downloading $address"
        # Servers refuse to resume a file that is already complete.
        fetch "$address" "$file" || tar -tf "$file" >/dev/null 2>&1 \
            || fail "$address cannot be downloaded; run the command again to resume"
        touch "$file.complete"
    fi
    say "$name: checking"
    if ! tar -tf "$file" >/dev/null 2>&1 || { $checksum && [[ "$(md5 "$file")" != "$sum" ]]; }; then
        rm -f "$file" "$file.complete"
        fail "$file was damaged and has been removed; run the command again"
    fi
    say "$name: unpacking"
    tar -xf "$file" -C "$target"
    holds "$year" "$list" "$count" || fail "$target/VOCdevkit/$year lacks some of the $count images of $list; run the command again"
    $keep || rm -f "$file" "$file.complete"
}

get voc2007/VOCtrainval_06-Nov-2007.tar c52e279531787c972589f7e41ab4ae64 1000 VOC2007 trainval 5011
get voc2007/VOCtest_06-Nov-2007.tar b6e924de25625d8de591ea690078ad9f 1000 VOC2007 test 4952
if $with_2012; then
    get voc2012/VOCtrainval_11-May-2012.tar 6cd6e144f989b92b3379bac3b3de84fd 4200 VOC2012 trainval 11540
fi
rmdir "$archives" 2>/dev/null || true
say "ready: python train.py data=voc data.root=$target/VOCdevkit"
