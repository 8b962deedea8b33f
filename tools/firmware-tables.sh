#!/usr/bin/env bash
# Makes the test input in drivers/discovery/tests/data anew: the ACPI tables that UEFI firmware leaves in a guest's
# memory, and QEMU's devicetrees, of machines with SMMUv3. Usage: tools/firmware-tables.sh [FOLDER]
#
# The tables are not asked of anybody: firmware boots until it looks for something to start, then the guest's memory is
# dumped, and the tables are found there as a system finds them, from the RSDP by way of the XSDT.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tools/setup.sh
source tools/setup.sh

data=${1:-drivers/discovery/tests/data}
work=$root/target/firmware-tables
# Where RAM begins on the machine, and how much of it there is.
ram_start=$((0x40000000)) ram_bytes=$((512 << 20))
# Firmware takes some seconds to start here; a boot that takes longer than this many is given up.
patience=240

# ---- memory ----------------------------------------------------------------------------------------------------

# The number of $2 bytes at physical address $1, little endian.
number_at() { od -An -v --endian=little -t "u$2" -j $(($1 - ram_start)) -N "$2" "$work/memory" | tr -d ' '; }

# The $2 bytes of text at physical address $1.
text_at() { dd if="$work/memory" bs=1 skip=$(($1 - ram_start)) count="$2" status=none; }

# The physical address of the table with signature $1.
find_table() {
    local offset xsdt length entry
    for offset in $(LC_ALL=C grep -obUaF 'RSD PTR ' "$work/memory" | cut -d: -f1); do
        # One of revision 2 that leads to an XSDT: what else holds the text is no RSDP.
        [ "$(number_at $((ram_start + offset + 15)) 1)" = 2 ] || continue
        xsdt=$(number_at $((ram_start + offset + 24)) 8)
        [ "$xsdt" -gt "$ram_start" ] && [ "$xsdt" -lt $((ram_start + ram_bytes)) ] || continue
        [ "$(text_at "$xsdt" 4 | tr -d '\0')" = XSDT ] || continue
        length=$(number_at $((xsdt + 4)) 4)
        for ((entry = xsdt + 36; entry < xsdt + length; entry += 8)); do
            if [ "$(text_at "$(number_at $entry 8)" 4 | tr -d '\0')" = "$1" ]; then
                number_at $entry 8
                return
            fi
        done
    done
    die "found no $1 in the memory that firmware left"
}

# ---- machines ---------------------------------------------------------------------------------------------------

# Boots firmware on machine $1 (its other arguments are QEMU's), and writes its IORT, APIC (MADT) and MCFG.
dump_tables() {
    local name=$1 signature at
    shift
    say "booting firmware: $name"
    rm -f "$work/memory" "$work/console"
    # The monitor reads its commands from here: firmware's last word on the console is that it found nothing to start.
    {
        for ((second = 0; second < patience; second++)); do
            sleep 1
            if grep -aqE 'No bootable option|Shell>|Press any key|BdsDxe: failed' "$work/console" 2>/dev/null; then break; fi
        done
        echo stop
        echo "pmemsave $ram_start $ram_bytes \"$work/memory\""
        echo quit
    } | timeout $((patience + 60)) "$qemu" "$@" -m $((ram_bytes >> 20)) -bios "$firmware" -nic none -display none \
        -serial "file:$work/console" -monitor stdio >"$work/monitor" 2>&1 ||
        die "QEMU ended with an error: $(tail -n 3 "$work/monitor")"
    [ -s "$work/memory" ] || die "QEMU dumped no memory (see $work/monitor)"
    for signature in IORT APIC MCFG; do
        at=$(find_table "$signature")
        text_at "$at" "$(number_at $((at + 4)) 4)" >"$data/$name.${signature,,}"
    done
}

# The big-endian word at offset $1 of the devicetree.
tree_word() { od -An -v --endian=big -t u4 -j "$1" -N 4 "$work/tree" | tr -d ' '; }

# Writes the devicetree of machine $1, without the unused space that QEMU leaves behind: the names of properties are the
# last that a tree has.
dump_tree() {
    local name=$1 len shift
    shift
    say "devicetree: $name"
    "$qemu" "$@" -nic none -display none -serial null -serial null </dev/null >"$work/monitor" 2>&1 ||
        die "QEMU wrote no devicetree: $(cat "$work/monitor")"
    # Where the names begin, and how long they are; the length of the whole stands behind the magic number.
    len=$(($(tree_word 12) + $(tree_word 32)))
    {
        head -c 4 "$work/tree"
        for shift in 24 16 8 0; do
            # shellcheck disable=SC2059 # the format is the byte
            printf "\\x$(printf '%02x' $((len >> shift & 255)))"
        done
        head -c "$len" "$work/tree" | tail -c +9
    } >"$data/$name.dtb"
}

mkdir -p "$data" "$work"
unpack_firmware
# Without the random numbers that a tree else has for a kernel, so that two runs give the same bytes.
virt=virt,gic-version=3,dtb-randomness=off tree=dumpdtb=$work/tree
# The machine that the demo boots on. Arguments need a kernel, which is not started.
head -c 4096 /dev/zero >"$work/kernel"
demo=(-M "virt,iommu=smmuv3,virtualization=on,gic-version=3,dtb-randomness=off,$tree" -cpu max -m 4G -kernel "$work/kernel" -append scenario=stage-1)
# A second root bus, from bus 0x40 on.
bus=(-cpu max -device 'edu,bus=pcie.0,addr=0x4' -device)
other=pxb-pcie,id=other,bus=pcie.0,bus_nr=0x40

setup_qemu aarch64 10
dump_tables qemu-10 -M "$virt,iommu=smmuv3" "${bus[@]}" "$other"
dump_tables qemu-10-bypass -M "$virt,iommu=smmuv3" "${bus[@]}" "$other,bypass_iommu=on"
dump_tree qemu-10 "${demo[@]}"

setup_qemu aarch64 11
# A unit for each of the two.
units=(-device 'arm-smmuv3,primary-bus=pcie.0,id=smmu0' -device 'arm-smmuv3,primary-bus=other,id=smmu1')
dump_tables qemu-11 -M "$virt" "${bus[@]}" "$other" "${units[@]}"
dump_tree qemu-11 "${demo[@]}"
dump_tree qemu-11-units -M "$virt,$tree" "${bus[@]}" "$other" "${units[@]}"
