// Entry at EL2, as from QEMU's loader of ELF files or a Linux-like one: MMU off, x0 = physical address of the
// devicetree or 0. Leaves for Rust on the stack, with MMU and caches on and the one GiB of RAM that holds the image
// mapped to itself; Rust builds the real tables.

    .section .text.boot, "ax", @progbits
    .globl entry
entry:
    msr     daifset, #0xf
    mrs     x1, CurrentEL
    cmp     x1, #(2 << 2)
    b.ne    not_el2
    mov     x19, x0

    // EL2 with its own registers (E2H off), SErrors taken here (AMO, bit 5), lower levels in AArch64 (RW, bit 31).
    mov     x1, #(1 << 5)
    orr     x1, x1, #(1 << 31)
    msr     hcr_el2, x1
    isb
    // Floating point and SIMD are not trapped: only the bits that are always one.
    mov     x1, #0x33ff
    msr     cptr_el2, x1

    // Attribute 0: memory, write-back. Attribute 1: device-nGnRE. paging.rs has the same.
    mov     x1, #0x04ff
    msr     mair_el2, x1
    // 48 bits of addresses (T0SZ 16), 4 KiB granule, tables write-back and inner shareable; the width of physical
    // addresses as the CPU has it, but not more than 48 bits, which other values of the field need another format for.
    mrs     x2, id_aa64mmfr0_el1
    and     x2, x2, #0xf
    mov     x3, #5
    cmp     x2, x3
    csel    x2, x2, x3, lo
    ldr     x1, =0x80803510
    orr     x1, x1, x2, lsl #16
    msr     tcr_el2, x1
    adrp    x1, boot_level0
    msr     ttbr0_el2, x1
    isb
    tlbi    alle2
    ic      iallu
    dsb     nsh
    isb
    // MMU, data and instruction caches, stack alignment checks, and the bits that are always one.
    ldr     x1, =0x30c5183d
    msr     sctlr_el2, x1
    isb

    // Exceptions use the same stack pointer as everything else, until they take one of their own.
    msr     spsel, #1
    adrp    x1, __stack_top
    add     x1, x1, :lo12:__stack_top
    mov     sp, x1
    mov     x29, xzr
    mov     x30, xzr
    mov     x0, x19
    bl      {start}
    brk     #1

not_el2:
    // Nothing can be printed yet. Semihosting's SYS_EXIT with status 37.
    adrp    x1, not_el2_exit
    add     x1, x1, :lo12:not_el2_exit
    mov     x0, #0x18
    hlt     #0xf000
1:  wfe
    b       1b
    .ltorg

    .section .rodata.boot, "a", @progbits
    .balign 8
not_el2_exit:
    .quad   0x20026, 37

    // The tables are constants: addresses below 512 GiB lead to the second one, and in it the second GiB is memory, a
    // block that may be read, written and executed (valid, AP[1] as EL2 wants it, inner shareable, access flag).
    .balign 4096
boot_level0:
    .quad   boot_level1 + 3
    .skip   4096 - 8
boot_level1:
    .quad   0
    .quad   0x40000000 + 0x741
    .skip   4096 - 16

    .text
