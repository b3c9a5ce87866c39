#!/usr/bin/env bash
# Download COCO 2017 in the layout that data.root expects: `scripts/download_coco.sh DIR` (annotations/ train2017/ val2017/).
#
# Downloads missing parts, resumes interrupted downloads, checks every archive before and the images after unpacking.
set -euo pipefail

usage() {
    cat <<'END'
usage: scripts/download_coco.sh DIR [--val-only] [--keep]

Downloads COCO 2017 (detection and keypoints) to DIR/annotations, DIR/train2017, DIR/val2017.
  --val-only   only the validation images (1 GB) and the annotations (0.25 GB)
  --keep       keep the archives after unpacking
Disk: 20 GB of images and annotations; 39 GB while the archive of the training images is being unpacked.
Running it again resumes an interrupted download and does nothing if all files exist. COCO_URL sets another mirror.
END
}

say() { printf '%s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

target="" ; val_only=false ; keep=false
for argument in "$@"; do
    case "$argument" in
        -h|--help) usage; exit 0 ;;
        --val-only) val_only=true ;;
        --keep) keep=true ;;
        -*) usage >&2; fail "unknown option $argument" ;;
        *) [[ -z "$target" ]] || fail "two folders given: $target and $argument; give one"; target="$argument" ;;
    esac
done
[[ -n "$target" ]] || { usage >&2; fail "no folder given; use scripts/download_coco.sh DIR"; }

url="${COCO_URL:-http://images.cocodataset.org}"
command -v unzip >/dev/null || fail "unzip is not installed; install it"
if command -v curl >/dev/null; then
    fetch() { curl --fail --location --retry 5 --retry-delay 5 --continue-at - --output "$2" "$1"; }
elif command -v wget >/dev/null; then
    fetch() { wget --continue --tries=5 --output-document="$2" "$1"; }
else
    fail "neither curl nor wget is installed; install one"
fi

mkdir -p "$target"
archives="$target/archives"

# Whether a folder holds this many files of a kind.
holds() { [[ -d "$1" ]] && (( $(find "$1" -maxdepth 1 -name "$2" | wc -l) >= $3 )); }

need_gigabytes() {
    local free
    free=$(df -Pk "$target" | awk 'NR == 2 { print int($4 / 1024 / 1024) }')
    (( free >= $1 )) || fail "$target has $free GB free, $2 needs $1 GB; free some space or give another folder"
}

# get NAME ADDRESS GIGABYTES FOLDER PATTERN COUNT: download an archive, check it, unpack it, check the files.
get() {
    local name="$1" address="$2" gigabytes="$3" folder="$target/$4" pattern="$5" count="$6"
    if holds "$folder" "$pattern" "$count"; then
        say "$4: already complete"
        return
    fi
    mkdir -p "$archives"
    local file="$archives/$name.zip"
    if [[ ! -f "$file.complete" ]]; then
        need_gigabytes "$gigabytes" "$name"
        say "$name: downloading $address"
        # Servers refuse to resume a file that is already complete.
        fetch "$address" "$file" || unzip -tqq "$file" 2>/dev/null \
            || fail "$address cannot be downloaded; run the command again to resume"
        touch "$file.complete"
    fi
    say "$name: checking"
    if ! unzip -tqq "$file"; then
        rm -f "$file" "$file.complete"
        fail "$file was damaged and has been removed; run the command again"
    fi
    say "$name: unpacking"
    unzip -qo "$file" -d "$target"
    holds "$folder" "$pattern" "$count" || fail "$folder has fewer than $count files $pattern; run the command again"
    $keep || rm -f "$file" "$file.complete"
}

get annotations "$url/annotations/annotations_trainval2017.zip" 2 annotations 'instances_*2017.json' 2
get val2017 "$url/zips/val2017.zip" 2 val2017 '*.jpg' 5000
$val_only || get train2017 "$url/zips/train2017.zip" 39 train2017 '*.jpg' 118287
rmdir "$archives" 2>/dev/null || true
say "ready: python train.py data=coco data.root=$target"
