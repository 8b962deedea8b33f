# PVH entry (Xen's docs/misc/pvh.pandoc): 32-bit protected mode, flat segments, paging off, interrupts off,
# ebx = physical address of hvm_start_info. Leaves for Rust in long mode on the stack, with the first 4 GiB mapped
# to themselves by 2 MiB pages; Rust builds the real tables. AT&T syntax.

    .section .note.pvh, "a", @note
    .balign 4
    .long 4                     # length of the name
    .long 8                     # length of the entry address
    .long 18                    # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_entry

    .section .text.boot, "ax", @progbits
    .code32
    .globl pvh_entry
pvh_entry:
    cli
    cld
    movl $__stack_top, %esp
    movl %ebx, %ebp             # cpuid takes ebx

    # Long mode (bit 29) and no-execute (bit 20), without which nothing below works.
    movl $0x80000001, %eax
    cpuid
    andl $(1 << 29 | 1 << 20), %edx
    cmpl $(1 << 29 | 1 << 20), %edx
    jne too_old

    # The loader has cleared .bss, so only what is present is written.
    movl $(boot_pdpt + 3), boot_pml4
    movl $boot_pdpt, %edi
    movl $(boot_pd + 3), %eax
    movl $4, %ecx
1:  movl %eax, (%edi)
    addl $8, %edi
    addl $4096, %eax
    loop 1b
    movl $boot_pd, %edi
    movl $0x83, %eax            # present, writable, 2 MiB
2:  movl %eax, (%edi)
    addl $8, %edi
    addl $0x200000, %eax
    jnc 2b                      # carries at 4 GiB

    movl $boot_pml4, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $(1 << 5), %eax         # PAE
    movl %eax, %cr4
    movl $0xc0000080, %ecx      # EFER
    rdmsr
    orl $(1 << 8 | 1 << 11), %eax # LME, NXE
    wrmsr
    movl %cr0, %eax
    orl $(1 << 31 | 1 << 16), %eax # PG, WP
    movl %eax, %cr0
    lgdt boot_gdt_pointer
    ljmp $8, $long_mode

too_old:
    # Nothing can be printed yet. isa-debug-exit makes 37 of this.
    movl $0x12, %eax
    movw $0xf4, %dx
    outl %eax, %dx
3:  hlt
    jmp 3b

    .code64
long_mode:
    movl $16, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    movl %eax, %ss
    movl $__stack_top, %esp     # clears the upper half
    movl %ebp, %edi
    xorl %ebp, %ebp
    call {start}
    ud2

    .section .rodata.boot, "a", @progbits
    .balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff    # 64-bit code
    .quad 0x00cf93000000ffff    # data
boot_gdt_pointer:
    .word . - boot_gdt - 1
    .quad boot_gdt

    .section .bss.boot, "aw", @nobits
    .balign 4096
boot_pml4:
    .skip 4096
boot_pdpt:
    .skip 4096
boot_pd:
    .skip 4 * 4096

    .text
