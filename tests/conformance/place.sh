#!/bin/sh
# Makes a folder run a version, in the way that the folder's file `trouble` asks for.
# Usage: place.sh FOLDER update VERSION | place.sh FOLDER version | place.sh FOLDER artifact VERSION
set -eu
folder=$1 action=$2 version=${3-}

if [ "$action" = version ]; then
    cat "$folder/runs"
    exit
fi
if [ "$action" = artifact ]; then
    [ "$version" = v1 ] || { echo "there is no $version" >&2; exit 1; }
    exit
fi

: >"$folder/at-work/$$"
trap 'rm -f "$folder/at-work/$$"' EXIT
read -r trouble <"$folder/trouble"
case $trouble in
fail-first)
    printf '\033[31mno space left\033[0m\n' >&2
    exit 3
    ;;
hang)
    while read -r trouble <"$folder/trouble" && [ "$trouble" = hang ]; do sleep 0.05; done
    ;;
loud)
    printf '\033[1mstart\033[0m \007\n'
    dd if=/dev/zero bs=1000 count=1000 2>/dev/null | tr '\0' x | fold -w 99
    ;;
esac
printf '%s' "$version" >"$folder/next.$$"
mv "$folder/next.$$" "$folder/runs"
if [ "$trouble" = fail-late ]; then
    echo "it could not be reloaded" >&2
    exit 4
fi
