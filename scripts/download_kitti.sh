#!/usr/bin/env bash
# Unpack KITTI's object benchmark in the layout that data=kitti expects: `scripts/download_kitti.sh DIR`.
#
# Its authors ask for a registration, so a browser downloads the archives; this script checks and unpacks them.
set -euo pipefail

page="https://www.cvlibs.net/datasets/kitti/eval_object.php?obj_benchmark=3d"

usage() {
    cat <<END
usage: scripts/download_kitti.sh DIR [--archives FOLDER] [--keep]

Unpacks KITTI's object benchmark to DIR/training/{image_2,label_2,calib} and DIR/testing/{image_2,calib}.
  --archives FOLDER   where the downloaded archives are (default: DIR/archives)
  --keep              keep archives in DIR/archives after unpacking; those in another folder are always kept

Download these three files first; the page asks for a registration (name, institution, e-mail):
  $page
  data_object_image_2.zip   left color images of object data set, 12 GB
  data_object_label_2.zip   training labels of object data set, 5 MB
  data_object_calib.zip     camera calibration matrices of object data set, 16 MB
Disk: 13 GB; 25 GB while the images are being unpacked.
Running it again unpacks what is missing and does nothing if all files exist. KITTI_URL sets a folder of a mirror of your
own, from which missing archives are fetched, and interrupted downloads are resumed.
END
}

say() { printf '%s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

target="" ; archives="" ; keep=false
while (( $# )); do
    case "$1" in
        -h|--help) usage; exit 0 ;;
        --archives) (( $# > 1 )) || fail "--archives needs a folder"; archives="$2"; shift ;;
        --archives=*) archives="${1#*=}" ;;
        --keep) keep=true ;;
        -*) usage >&2; fail "unknown option $1" ;;
        *) [[ -z "$target" ]] || fail "two folders given: $target and $1; give one"; target="$1" ;;
    esac
    shift
done
[[ -n "$target" ]] || { usage >&2; fail "no folder given; use scripts/download_kitti.sh DIR"; }
if [[ -n "$archives" ]]; then
    [[ -d "$archives" ]] || fail "--archives $archives is not an existing folder; give the one with the downloaded files"
    keep=true
else
    archives="$target/archives"
fi
command -v unzip >/dev/null || fail "unzip is not installed; install it"
mkdir -p "$target"

# Whether a folder holds this many files of a kind.
holds() { [[ -d "$target/$1" ]] && (( $(find "$target/$1" -maxdepth 1 -name "$2" | wc -l) >= $3 )); }

need_megabytes() {
    local free
    free=$(df -Pk "$target" | awk 'NR == 2 { print int($4 / 1024) }')
    (( free >= $1 )) || fail "$target has $free MB free, $2 needs $1 MB; free some space or give another folder"
}

fetch() {
    if command -v curl >/dev/null; then
        curl --fail --location --retry 5 --retry-delay 5 --continue-at - --output "$2" "$1"
    elif command -v wget >/dev/null; then
        wget --continue --tries=5 --output-document="$2" "$1"
    else
        fail "neither curl nor wget is installed; install one"
    fi
}

# unpack NAME MEGABYTES FOLDER PATTERN COUNT [FOLDER COUNT]: check an archive, unpack it, count the files.
unpack() {
    local file="$archives/$1.zip" megabytes="$2" pattern="$4"
    local folders=("$3") counts=("$5")
    if (( $# > 5 )); then folders+=("$6"); counts+=("$7"); fi
    local n complete=true
    for n in "${!folders[@]}"; do holds "${folders[n]}" "$pattern" "${counts[n]}" || complete=false; done
    if $complete; then
        say "$1: already complete"
        return
    fi
    if [[ -n "${KITTI_URL:-}" ]] && ! { [[ -f "$file" ]] && unzip -tqq "$file" 2>/dev/null; }; then
        mkdir -p "$archives"
        say "$1: downloading $KITTI_URL/$1.zip"
        fetch "$KITTI_URL/$1.zip" "$file" || fail "$KITTI_URL/$1.zip cannot be downloaded; run the command again to resume"
    fi
    [[ -f "$file" ]] || fail "$file is not there; register at $page, download $1.zip into $archives, and run the command again"
    say "$1: checking"
    unzip -tqq "$file" >/dev/null 2>&1 || fail "$file is damaged or incomplete; download it again"
    need_megabytes "$megabytes" "$1"
    say "$1: unpacking"
    unzip -qo "$file" -d "$target"
    for n in "${!folders[@]}"; do
        holds "${folders[n]}" "$pattern" "${counts[n]}" \
            || fail "$target/${folders[n]} has fewer than ${counts[n]} files $pattern; download $1.zip again"
    done
    $keep || rm -f "$file"
}

unpack data_object_calib 200 training/calib '*.txt' 7481 testing/calib 7518
unpack data_object_label_2 100 training/label_2 '*.txt' 7481
unpack data_object_image_2 12500 training/image_2 '*.png' 7481 testing/image_2 7518
rmdir "$archives" 2>/dev/null || true
say "ready: python train.py task=ddd_geo data=kitti data.root=$target augment=ddd"
