# shellcheck shell=bash disable=SC2034
# What the setup fetches. The compiler's version is `channel` in rust-toolchain.toml; on a change there,
# change RUST_SRC_* here to the same release.

# Debian's source package of the standard library, for machines where rustup may not add targets.
# Older versions leave the mirrors some day; any Debian revision of the same release will do.
RUST_SRC_RELEASE=1.95.0
RUST_SRC_VERSION='1.95.0+dfsg1-2~bpo13+1'
RUST_SRC_SHA256=7b76db5b880a77f9e52975d2baa6209d2f76d2c9c2789515c3088cb960e2c83b
RUST_SRC_SUITE=trixie-backports

# The Debian suite that holds each QEMU that `--qemu` can unpack.
QEMU_10_SUITE=trixie
QEMU_11_SUITE=trixie-backports

# The Debian suite that holds the valgrind that is unpacked where the machine has none.
VALGRIND_SUITE=trixie

# The Debian suite that holds the UEFI firmware that tools/firmware-tables.sh boots.
FIRMWARE_SUITE=trixie

# The oldest QEMU that is taken from PATH, and the one that is unpacked if PATH has none.
QEMU_OLDEST=10
QEMU_DEFAULT=11

# A boot that takes longer than this many seconds is killed. Boots take a few seconds.
BOOT_SECONDS=60
