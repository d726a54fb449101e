#!/bin/sh
# Puts what a host needs into an image: programs, units, tmpfiles, sysusers, configuration, and what to read beside them.
#
#   [DESTDIR=IMAGE] [PREFIX=/usr] [BIN_DIR=FOLDER] dist/install.sh
#
# DESTDIR is the root folder of the image; empty: of this machine. PREFIX is where in it; the units call the programs there. BIN_DIR is
# where the built programs lie (target/dist). A configuration that is there stays as it is. Nothing is enabled and nothing is started.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=${DESTDIR:-}
prefix=${PREFIX:-/usr}
built=${BIN_DIR:-${CARGO_TARGET_DIR:-$here/../target}/dist}
# Group and others must not be able to write to anything of it: the daemon refuses such files.
umask 022

fail() {
    echo "install.sh: $1" >&2
    echo "hint: $2" >&2
    exit 1
}

case $prefix in
/*[!A-Za-z0-9/._+-]* | [!/]*) fail "PREFIX is $prefix; expected an absolute path of letters, digits and /._+-" "PREFIX=/usr, or leave it out" ;;
esac
for program in update-engined update-engine-trial updatectl; do
    [ -x "$built/$program" ] ||
        fail "there is no program $built/$program" "cargo build --profile dist -p update-engine --bins, or BIN_DIR=FOLDER"
done

put() { # MODE FROM TO
    install -D -m "$1" "$2" "$root$3"
}
put_unit() { # NAME: calls the programs where they are
    sed "s|/usr/bin/|$prefix/bin/|" "$here/systemd/$1" >"$scratch/$1"
    put 644 "$scratch/$1" "$prefix/lib/systemd/system/$1"
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for program in update-engined update-engine-trial updatectl; do
    put 755 "$built/$program" "$prefix/bin/$program"
done
put_unit update-engined.service
put_unit update-engine-trial.service
put 644 "$here/tmpfiles.d/update-engine.conf" "$prefix/lib/tmpfiles.d/update-engine.conf"
put 644 "$here/sysusers.d/update-engine.conf" "$prefix/lib/sysusers.d/update-engine.conf"
if [ -e "$root/etc/update-engine/config.toml" ]; then
    echo "install.sh: /etc/update-engine/config.toml is there and stays as it is"
else
    put 644 "$here/config.toml" /etc/update-engine/config.toml
fi

doc=$prefix/share/doc/update-engine
# As they lie here, so that what they name is where they say.
for file in "$here"/../LICENSE "$here"/../README.md "$here"/../docs/*.md; do
    put 644 "$file" "$doc/${file#"$here/../"}"
done
for example in config.toml grub/ota.cfg u-boot/boot.cmd layout/bios.sfdisk layout/uefi-verity.sfdisk layout/repart.d/*; do
    for file in "$here"/$example; do
        put 644 "$file" "$doc/dist/${file#"$here/"}"
    done
done
