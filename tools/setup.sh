# shellcheck shell=bash
# Provides what a fresh machine lacks, all under the workspace's target/: the bare targets' standard library, QEMU, the
# plugin for it, and valgrind. Sourced by qemu-run.sh. Needs no root and changes nothing outside target/, except that
# `rustup target add` is used where rustup may download. Everything it has to say goes to stderr.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=tools/versions.sh
source "$root/tools/versions.sh"

bare_targets=(x86_64-unknown-none aarch64-unknown-none)

say() { printf '%s\n' "$*" >&2; }

# What cannot be provided or understood: one line that says what to do, exit status 2.
die() {
    say "qemu-run.sh: $*"
    exit 2
}

need() { command -v "$1" >/dev/null || die "$1 is missing: install $2"; }

# Runs a command with its output kept in a file, which the line of a later `die` points to.
log=$root/target/setup.log
quietly() { "$@" >"$log" 2>&1 </dev/null; }

# ---- Debian packages without installing them -------------------------------------------------------------------

# The mirror that this machine uses: the repository of its own release, not that of security or updates.
# Without the release's own information the answer also comes on a machine that never ran `apt-get update`.
debian_mirror() {
    local codename
    codename=$(. /etc/os-release 2>/dev/null && printf '%s' "${VERSION_CODENAME-}")
    # shellcheck disable=SC2016 # apt-get replaces these
    apt-get indextargets --no-release-info --format '$(REPO_URI) $(RELEASE)' \
        'Created-By: Packages' 'Component: main' 2>/dev/null |
        awk -v name="$codename" '($2 == name || $2 ~ /^(old)*stable$/) && !found++ { print $1 }'
}

# A private APT: the machine's own settings (proxy, credentials) stay, but lists, packages and sources are ours.
# `-c` is read after the machine's files, so that it can also clear hooks that would act on the system.
private_apt() { apt-get -c "$root/target/apt/apt.conf" -qq "$@"; }

apt_ready=''
prepare_apt() {
    [ -z "$apt_ready" ] || return 0
    local apt=$root/target/apt mirror keyring option='' suite
    if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
        die "this machine has no apt-get and dpkg-deb to fetch Debian's packages with: $1"
    fi
    mirror=$(debian_mirror)
    [ -n "$mirror" ] || die "found no Debian mirror in this machine's APT sources: $1"
    rm -rf "$apt"
    mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial"
    : >"$apt/status" # nothing counts as installed, so every library that QEMU needs comes along
    for keyring in /usr/share/keyrings/debian-archive-keyring.{gpg,pgp}; do
        [ ! -e "$keyring" ] || option=" signed-by=$keyring"
    done
    for suite in trixie trixie-backports; do
        printf 'deb [target=Packages%s] %s %s main\n' "$option" "$mirror" "$suite"
    done >"$apt/sources.list"
    cat >"$apt/apt.conf" <<-EOF
		#clear APT::Update;
		#clear DPkg;
		Dir::Etc::sourcelist "$apt/sources.list";
		Dir::Etc::sourceparts "/dev/null";
		Dir::Etc::preferences "/dev/null";
		Dir::Etc::preferencesparts "/dev/null";
		Dir::State "$apt/state";
		Dir::State::status "$apt/status";
		Dir::Cache "$apt/cache";
		APT::Sandbox::User "root";
		APT::Default-Release "";
		APT::Update::Error-Mode "any";
		Acquire::Languages "none";
		Acquire::Retries "3";
	EOF
    quietly private_apt update || die "Debian's trixie suites cannot be read from this machine's mirror (see $log): $1"
    apt_ready=yes
}

# ---- the bare targets ------------------------------------------------------------------------------------------

has_core() {
    local libs=("$1"/libcore-*.rlib)
    [ -e "${libs[0]}" ]
}

setup_targets() {
    local sysroot=$root/target/sysroot target libdir missing=() hint
    need rustc 'Rust (rustup, or a toolchain of the version in rust-toolchain.toml)'
    need cargo 'Rust (rustup, or a toolchain of the version in rust-toolchain.toml)'
    need cc 'gcc (cargo links programs of the host with it)'
    for target in "${bare_targets[@]}"; do
        libdir=$(rustc --print target-libdir --target "$target" 2>/dev/null) ||
            die "rustc does not run here: install the toolchain that rust-toolchain.toml names"
        has_core "$libdir" || missing+=("$target")
    done
    [ ${#missing[@]} -gt 0 ] || return 0

    if command -v rustup >/dev/null && [ "${RUSTUP_AUTO_INSTALL-1}" != 0 ]; then
        say "adding ${missing[*]} by rustup"
        if quietly rustup target add "${missing[@]}"; then return 0; fi
        say 'rustup could not add them; building them from Debian'\''s source package'
    fi

    if [ "$(cat "$sysroot/rustc-version" 2>/dev/null)" = "$(rustc -vV)" ]; then
        for target in "${missing[@]}"; do has_core "$sysroot/lib/rustlib/$target/lib" || break; done
        if has_core "$sysroot/lib/rustlib/$target/lib"; then return 0; fi
    fi

    hint="install the targets by: rustup target add ${missing[*]}"
    [ "$(rustc -vV | sed -n 's/^release: //p')" = "$RUST_SRC_RELEASE" ] ||
        die "this is not rustc $RUST_SRC_RELEASE, for which tools/versions.sh names a source: $hint"
    prepare_apt "$hint"
    build_sysroot "$sysroot" "$hint"
}

# Builds core, alloc and compiler_builtins from Debian's rust-src into the folder $1. A folder of our own and not the
# toolchain's: a later `rustup target add` over libraries placed there by hand gives E0464.
build_sysroot() {
    local sysroot=$1 hint=$2 work=$root/target/sysroot.tmp library hash target lib deb
    say "building the standard library of ${bare_targets[*]} (about half a minute)"
    rm -rf "$work"
    mkdir -p "$work/probe/src"

    (cd "$work" && quietly private_apt download "rust-src=$RUST_SRC_VERSION") ||
        die "rust-src $RUST_SRC_VERSION cannot be fetched from Debian's $RUST_SRC_SUITE (see $log); if it is no longer" \
            "there, put the version and checksum of one that is into tools/versions.sh, or $hint"
    deb=$(echo "$work"/rust-src_*.deb)
    echo "$RUST_SRC_SHA256  $deb" | sha256sum --check --status 2>/dev/null ||
        die "the checksum of rust-src $RUST_SRC_VERSION is not the one in tools/versions.sh: $hint"
    dpkg-deb -x "$deb" "$work/source"
    library=$work/source/usr/src/rustc-$RUST_SRC_RELEASE/library

    # A workspace of its own, so that cargo does not take it for a member of ours.
    printf '[package]\nname = "probe"\nedition = "2024"\n[workspace]\n' >"$work/probe/Cargo.toml"
    printf '#![no_std]\n' >"$work/probe/src/lib.rs"
    hash=$(rustc -vV | sed -n 's/^commit-hash: //p')
    # RUSTC_BOOTSTRAP, for -Zbuild-std, stays confined to this one build: the project itself is stable Rust. The
    # encoded form of RUSTFLAGS takes paths with blanks; 0x1f separates the flags.
    (
        cd "$work/probe"
        export RUSTC_BOOTSTRAP=1 __CARGO_TESTS_ONLY_SRC_ROOT=$library RUSTC_WRAPPER=''
        export CARGO_ENCODED_RUSTFLAGS=$'-Cembed-bitcode=yes\x1f-Cdebuginfo=1\x1f-Cpanic=abort\x1f'
        CARGO_ENCODED_RUSTFLAGS+="--remap-path-prefix=$library=/rustc/$hash/library"
        quietly cargo build --release --offline --target-dir "$work/build" \
            -Zbuild-std=core,alloc -Zbuild-std-features=compiler-builtins-mem \
            --config 'source.crates-io.replace-with="debian"' \
            --config "source.debian.directory=\"$library/vendor\"" \
            "${bare_targets[@]/#/--target=}"
    ) || die "the standard library does not build from rust-src $RUST_SRC_VERSION (see $log): $hint"

    for target in "${bare_targets[@]}"; do
        mkdir -p "$work/sysroot/lib/rustlib/$target/lib"
        for lib in core alloc compiler_builtins; do
            cp "$work/build/$target/release/deps/lib$lib"-*.rlib "$work/sysroot/lib/rustlib/$target/lib/"
        done
    done
    rustc -vV >"$work/sysroot/rustc-version"
    rm -rf "$sysroot"
    mv "$work/sysroot" "$sysroot"
    rm -rf "$work"
}

# ---- QEMU ------------------------------------------------------------------------------------------------------

qemu_version() { "$1" --version 2>/dev/null </dev/null | sed -nE 's/^QEMU emulator version ([0-9.]+).*/\1/p'; }

# Sets `qemu` to the emulator to use for architecture $1; $2 is the value of --qemu, empty if it was not given.
setup_qemu() {
    local wanted=$2 name=qemu-system-$1 version
    case $wanted in
    10 | 11) unpack_qemu "$wanted" ;;
    '')
        if qemu=$(command -v "$name"); then
            version=$(qemu_version "$qemu")
            if [ "${version%%.*}" -ge "$QEMU_OLDEST" ] 2>/dev/null; then return 0; fi
        fi
        wanted=$QEMU_DEFAULT
        unpack_qemu "$wanted"
        ;;
    *)
        qemu=$(command -v "$wanted") || die "--qemu $wanted: no such program (10, 11 or a QEMU binary)"
        version=$(qemu_version "$qemu")
        [ -n "$version" ] || die "--qemu $wanted: this is not a QEMU that runs here"
        [ "${version%%.*}" -ge "$QEMU_OLDEST" ] || die "--qemu $wanted: QEMU $version is older than $QEMU_OLDEST"
        return 0
        ;;
    esac
    qemu=$root/target/qemu-$wanted/$name
}

# Unpacks Debian's QEMU $1 with every library that it needs into target/qemu-$1, with a starter for each emulator.
unpack_qemu() {
    local folder=$root/target/qemu-$1 work=$root/target/qemu-$1.tmp suite=QEMU_$1_SUITE hint deb file name
    [ ! -e "$folder/complete" ] || return 0
    suite=${!suite}
    hint="install qemu-system-x86 and qemu-system-arm, version $QEMU_OLDEST or newer"
    prepare_apt "$hint"
    say "unpacking QEMU $1 from Debian's $suite (about 60 MB)"
    rm -rf "$work"
    mkdir -p "$work"
    private_apt clean
    quietly private_apt install --download-only --no-install-recommends --yes -t "$suite" \
        qemu-system-x86 qemu-system-arm || die "QEMU $1 cannot be fetched from Debian's $suite (see $log): $hint"
    for deb in "$root"/target/apt/cache/archives/*.deb; do
        dpkg-deb -x "$deb" "$work" || die "$deb does not unpack; is the disk full?"
    done
    private_apt clean

    # Run by the loader that came with it, so that the age of this machine's libraries does not matter. Without
    # QEMU_MODULE_DIR it would load the machine's own modules, and abort.
    for name in qemu-system-x86_64 qemu-system-aarch64; do
        cat >"$work/$name" <<-'EOF'
			#!/usr/bin/env bash
			# Written by tools/setup.sh: starts the QEMU that was unpacked here.
			here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
			loader=("$here"/usr/lib*/ld-linux-*.so.*)
			libraries=("$here"/usr/lib/*-linux-gnu)
			QEMU_MODULE_DIR=$libraries/qemu exec "$loader" --library-path "$libraries" "$here/usr/bin/${0##*/}" \
			    -L "$here/usr/share/qemu" -L "$here/usr/share/seabios" "$@"
		EOF
        chmod +x "$work/$name"
        [ -n "$(qemu_version "$work/$name")" ] || die "the QEMU $1 that was unpacked does not run here: $hint"
    done
    for file in bios-256k.bin kvmvapic.bin pvh.bin linuxboot_dma.bin; do
        [ -e "$work/usr/share/qemu/$file" ] || [ -e "$work/usr/share/seabios/$file" ] ||
            die "the QEMU $1 that was unpacked lacks $file: $hint"
    done
    : >"$work/complete"
    rm -rf "$folder"
    mv "$work" "$folder"
}

# ---- UEFI firmware for QEMU's virt machine -----------------------------------------------------------------------

# Unpacks Debian's UEFI firmware for Arm machines into target/firmware; sets `firmware` to the image that QEMU takes by
# -bios.
unpack_firmware() {
    local folder=$root/target/firmware work=$root/target/firmware.tmp hint='install qemu-efi-aarch64' deb
    firmware=$folder/usr/share/qemu-efi-aarch64/QEMU_EFI.fd
    [ ! -e "$folder/complete" ] || return 0
    prepare_apt "$hint"
    say "unpacking UEFI firmware from Debian's $FIRMWARE_SUITE (about 10 MB)"
    rm -rf "$work"
    mkdir -p "$work"
    (cd "$work" && quietly private_apt download "qemu-efi-aarch64/$FIRMWARE_SUITE") ||
        die "qemu-efi-aarch64 cannot be fetched from Debian's $FIRMWARE_SUITE (see $log): $hint"
    deb=$(echo "$work"/qemu-efi-aarch64_*.deb)
    dpkg-deb -x "$deb" "$work" || die "$deb does not unpack; is the disk full?"
    dpkg-deb -f "$deb" Version >"$work/version"
    rm "$deb"
    : >"$work/complete"
    rm -rf "$folder"
    mv "$work" "$folder"
}

# ---- the plugin for QEMU ----------------------------------------------------------------------------------------

# Builds the plugin by which a function of QEMU's sends requests with a PASID; sets `plugin`.
setup_plugin() {
    local source=$root/tests/qemu-plugin/pasid-doorbell.c
    plugin=$root/target/qemu-plugin/pasid-doorbell.so
    if [ "$plugin" -nt "$source" ] && [ "$plugin" -nt "$root/tools/setup.sh" ]; then return 0; fi
    mkdir -p "$root/target/qemu-plugin"
    quietly cc -std=gnu11 -O2 -g -Wall -Wextra -Werror -fvisibility=hidden -fPIC -shared -o "$plugin.new" "$source" ||
        die "tests/qemu-plugin does not build (see $log): install gcc and libc6-dev"
    mv "$plugin.new" "$plugin"
}

# ---- valgrind ---------------------------------------------------------------------------------------------------

# Provides callgrind, which a test counts instructions with, unless this machine has it: Debian's package in
# target/valgrind. Only the package itself: the tool is linked statically, and starting it by the starter written here
# takes the place of its launcher, so that the age of this machine's libraries does not matter.
setup_valgrind() {
    local folder=$root/target/valgrind work=$root/target/valgrind.tmp hint='install valgrind' deb architecture
    if [ -e "$folder/complete" ] || valgrind --tool=callgrind --version >/dev/null 2>&1; then return 0; fi
    prepare_apt "$hint"
    say "unpacking valgrind from Debian's $VALGRIND_SUITE (about 15 MB)"
    rm -rf "$work"
    mkdir -p "$work"
    (cd "$work" && quietly private_apt download "valgrind/$VALGRIND_SUITE") ||
        die "valgrind cannot be fetched from Debian's $VALGRIND_SUITE (see $log): $hint"
    deb=$(echo "$work"/valgrind_*.deb)
    dpkg-deb -x "$deb" "$work" || die "$deb does not unpack; is the disk full?"
    architecture=$(dpkg-deb -f "$deb" Architecture)
    rm "$deb"
    cat >"$work/valgrind" <<-EOF
		#!/usr/bin/env bash
		# Written by tools/setup.sh: starts the callgrind that was unpacked here. For no other tool.
		here=\$(cd "\$(dirname "\${BASH_SOURCE[0]}")" && pwd)
		export VALGRIND_LIB=\$here/usr/libexec/valgrind VALGRIND_LAUNCHER=\$here/valgrind
		exec "\$VALGRIND_LIB/callgrind-$architecture-linux" "\$@"
	EOF
    chmod +x "$work/valgrind"
    "$work/valgrind" --tool=callgrind --callgrind-out-file=/dev/null /bin/true >"$log" 2>&1 ||
        die "the valgrind that was unpacked does not run here (see $log): $hint"
    : >"$work/complete"
    rm -rf "$folder"
    mv "$work" "$folder"
}

# ---- all of it -------------------------------------------------------------------------------------------------

# Provides everything for architecture $1 with the QEMU that $2 asks for; sets `qemu`, and `plugin` where it is of use.
# One setup at a time.
setup_all() {
    mkdir -p "$root/target"
    exec 8>"$root/target/setup.lock"
    flock 8
    setup_targets
    setup_qemu "$1" "$2"
    if [ "$1" = x86_64 ]; then setup_plugin; fi
    # Only a test needs it: boots go without.
    if [ "${action-}" = setup ]; then setup_valgrind; fi
    exec 8>&-
}
