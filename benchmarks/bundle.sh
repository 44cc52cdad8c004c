#!/bin/sh
# Puts a trained generator among the models that are installed with the package: an export, unpacked.
#
#     benchmarks/bundle.sh NAME MODEL -licence "CC BY-SA 4.0" -title "..." -data "..."
#
# benchmarks/README.md has the commands that made the bundled models; tests/test_models.py checks what is there.
set -eu
case ${1:--h} in -h | --help) sed -n '2,/^set /s/^# \{0,1\}//p' "$0" && exit ;; esac
name=$1 model=$2
shift 2
folder=$(cd "$(dirname "$0")/.." && pwd)/nnunet_sbldm/models/$name
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
sbldm_export -m "$model" -o "$work/$name.zip" --fp16 "$@"
rm -rf "$folder"
mkdir -p "$folder"
python3 -m zipfile -e "$work/$name.zip" "$folder"
du -sh "$folder"
