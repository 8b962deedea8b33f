// SPDX-License-Identifier: GPL-2.0-or-later
//
// A plugin for QEMU that gives a PCI function of a running machine a doorbell for PASID-tagged DMA. See README.md.
//
// It includes no header of QEMU's: what it uses of QEMU it looks up by name in the program that loads it, declared here
// as this file needs it. Whatever is not as it expects ends QEMU with a message: a wrong guess must not run.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__ || UINTPTR_MAX != UINT64_MAX
#error "for little-endian hosts of 64 bits"
#endif

// ---- the doorbell, as the guest sees it ------------------------------------------------------------------------

// "PASIDDMA" in the order of memory.
#define MAGIC UINT64_C(0x414d444449534150)
#define VERSION 1
// Bits of a PASID on the bus.
#define PASID_BITS 20
// PASID register: the request carries none.
#define NO_PASID UINT32_C(0xffffffff)
#define BUFFER_SIZE 0x1000
// A page of registers, then the buffer.
#define WINDOW_SIZE (0x1000 + BUFFER_SIZE)
// Different PASIDs in one run. QEMU makes an address space for each and gets slow with many.
#define MOST_PASIDS 200

enum {
    REG_MAGIC = 0x00,     // 64 bits, read-only
    REG_VERSION = 0x08,   // read-only
    REG_WIDTH = 0x0c,     // read-only: bits of a PASID that the unit takes
    REG_CONTROL = 0x10,   // CONTROL_PASIDS
    REG_STATUS = 0x14,    // read-only: enum status of the last request
    REG_ADDRESS = 0x18,   // 64 bits: source of a read, destination of a write
    REG_LENGTH = 0x20,    // bytes, 1 to BUFFER_SIZE
    REG_PASID = 0x24,     // the request's, or NO_PASID
    REG_DIRECTION = 0x28, // 0: memory to buffer, 1: buffer to memory
    REG_DOORBELL = 0x2c,  // write-only: makes the request, which is complete when the write is
    REG_DONE_PASID = 0x30, // read-only: PASID of the last request
    REG_DONE_BYTES = 0x34, // read-only: bytes that it moved
    REG_COUNT = 0x38,      // read-only: requests so far
    REGS_END = 0x3c,
    BUFFER = 0x1000,
};

// REG_CONTROL: requests with a PASID may be made, as by the capability of a PCIe function.
#define CONTROL_PASIDS 1

enum status {
    NONE = 0,          // no request so far
    MOVED = 1,         // all bytes were moved
    REFUSED = 2,       // the unit, or whatever is at the address, refused some of it
    NOT_MASTER = 3,    // the function may do no DMA
    NO_PASIDS = 4,     // a PASID, and these are off
    BAD_PASID = 5,     // wider than on the bus
    BAD_LENGTH = 6,    // nothing, more than the buffer, or beyond the last address
    INTERRUPT = 7,     // the range touches 0xfee00000 to 0xfeefffff: no memory
    TOO_MANY = 8,      // more different PASIDs than MOST_PASIDS
    BAD_DIRECTION = 9, // neither 0 nor 1
};

struct doorbell {
    uint32_t control, status, length, pasid, direction, done_pasid, done_bytes, count;
    uint64_t address;
    uint8_t buffer[BUFFER_SIZE];
};

// ---- QEMU, as far as it is known here ---------------------------------------------------------------------------

typedef struct Object Object;
typedef struct MemoryRegion MemoryRegion;
typedef struct AddressSpace AddressSpace;

// Passed by value: 4 or 8 bytes by version, one register either way.
struct attributes {
    uint64_t bits;
};

struct notifier {
    void (*notify)(struct notifier *, void *);
    struct {
        void *next, **previous;
    } node;
};

struct region_ops {
    uint64_t (*read)(void *, uint64_t, unsigned);
    void (*write)(void *, uint64_t, uint64_t, unsigned);
    void *read_with_attributes, *write_with_attributes;
    int endianness;
    struct {
        unsigned least, most;
        bool unaligned;
        void *accepts;
    } valid;
    struct {
        unsigned least, most;
        bool unaligned;
    } implemented;
};
#define LITTLE_ENDIAN_REGISTERS 2

// The VT-d unit's record of one (function, PASID), of which `space` is a member.
struct vtd_space {
    void *bus;
    uint8_t devfn;
    uint32_t pasid;
    uint64_t space;
};
_Static_assert(offsetof(struct vtd_space, devfn) == 8 && offsetof(struct vtd_space, pasid) == 12 &&
                   offsetof(struct vtd_space, space) == 16,
               "as in QEMU");

struct version {
    int64_t major, minor, micro;
};
struct version_info {
    struct version *qemu;
    char *package;
};

// What install is told, as far as it is read.
struct install_info {
    const char *target;
    struct {
        int least, current;
    } version;
    bool system;
};

// The versions of QEMU that this was run on, with their plugin API and the PASID of their untagged requests.
static const struct known {
    int major, minor, least_api, current_api;
    uint32_t untagged;
} known[] = {
    {10, 0, 2, 4, UINT32_C(0xffffffff)},
    {11, 1, 7, 7, 0},
};

// A request of memory: 64 bits, little endian, as this host is.
#define MEMORY_OP_64 3

// Everything of QEMU's that is called: result, name, parameters.
#define QEMU_FUNCTIONS(F)                                                                                              \
    F(struct version_info *, qmp_query_version, (void **))                                                             \
    F(void, qemu_add_machine_init_done_notifier, (struct notifier *))                                                  \
    F(Object *, object_resolve_path, (const char *, bool *))                                                           \
    F(Object *, object_resolve_path_type, (const char *, const char *, bool *))                                        \
    F(Object *, object_resolve_path_component, (Object *, const char *))                                               \
    F(Object *, object_dynamic_cast, (Object *, const char *))                                                         \
    F(Object *, object_property_get_link, (Object *, const char *, void **))                                           \
    F(int64_t, object_property_get_int, (Object *, const char *, void **))                                             \
    F(uint32_t, pci_default_read_config, (Object *, uint32_t, int))                                                    \
    F(AddressSpace *, pci_device_iommu_address_space, (Object *))                                                      \
    F(struct vtd_space *, vtd_find_add_as, (Object *, void *, int, unsigned))                                          \
    F(uint64_t, memory_region_size, (MemoryRegion *))                                                                  \
    F(void, memory_region_init_io,                                                                                     \
      (MemoryRegion *, Object *, const struct region_ops *, void *, const char *, uint64_t))                           \
    F(void, memory_region_add_subregion_overlap, (MemoryRegion *, uint64_t, MemoryRegion *, int))                      \
    F(uint32_t, memory_region_dispatch_read, (MemoryRegion *, uint64_t, uint64_t *, int, struct attributes))           \
    F(uint32_t, memory_region_dispatch_write, (MemoryRegion *, uint64_t, uint64_t, int, struct attributes))            \
    F(uint32_t, address_space_rw, (AddressSpace *, uint64_t, struct attributes, void *, uint64_t, bool))               \
    F(bool, bql_locked, (void))

#define DECLARE(result, name, parameters) static result(*name) parameters;
QEMU_FUNCTIONS(DECLARE)

// ---- state -------------------------------------------------------------------------------------------------------

static struct doorbell doorbell;
// More than any QEMU's MemoryRegion takes.
static _Alignas(64) uint8_t window[4096];

static char *device_id, *region_name;
static uint64_t offset;
static bool has_offset;

static const struct known *qemu;
static Object *device, *unit;
static void *bus;
static uint8_t devfn;
// Bits of a PASID by the unit's own registers.
static unsigned width;
// The untagged requests' space, and those of the PASIDs that were used.
static AddressSpace *untagged;
static struct {
    uint32_t pasid;
    AddressSpace *space;
} spaces[MOST_PASIDS];
static unsigned spaces_used;

static void say(const char *format, va_list arguments) {
    fputs("pasid-doorbell: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    fflush(stderr);
}

// Ends QEMU at once: on the way out it would run code that this plugin has just found not to be what it knows.
__attribute__((format(printf, 1, 2), noreturn)) static void refuse(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    say(format, arguments);
    va_end(arguments);
    _exit(EXIT_FAILURE);
}

// ---- DMA ---------------------------------------------------------------------------------------------------------

// The address space of one PASID of the function, checked.
static AddressSpace *space_of(uint32_t pasid) {
    for (unsigned i = 0; i < spaces_used; i++) {
        if (spaces[i].pasid == pasid) {
            return spaces[i].space;
        }
    }
    if (spaces_used == MOST_PASIDS) {
        return NULL;
    }
    struct vtd_space *found = vtd_find_add_as(unit, bus, devfn, pasid);
    if (!found || found->bus != bus || found->devfn != devfn || found->pasid != pasid) {
        refuse("the unit's record of PASID %#x is not what this QEMU is known for", pasid);
    }
    AddressSpace *space = (AddressSpace *)&found->space;
    // Where untagged requests have a PASID of their own, this one's space is another.
    if ((space == untagged) != (pasid == qemu->untagged)) {
        refuse("PASID %#x shares its address space with untagged requests", pasid);
    }
    spaces[spaces_used].pasid = pasid;
    spaces[spaces_used++].space = space;
    return space;
}

static enum status request(void) {
    struct doorbell *d = &doorbell;
    AddressSpace *space = untagged;

    if (!(pci_default_read_config(device, 4, 2) & 4)) {
        return NOT_MASTER;
    }
    if (d->direction > 1) {
        return BAD_DIRECTION;
    }
    if (d->length == 0 || d->length > BUFFER_SIZE || d->address + (d->length - 1) < d->address) {
        return BAD_LENGTH;
    }
    // QEMU asserts where translation meets an address of interrupts.
    uint64_t last = d->address + (d->length - 1);
    if (last >= UINT64_C(0xfee00000) && d->address <= UINT64_C(0xfeefffff)) {
        return INTERRUPT;
    }
    if (d->pasid != NO_PASID) {
        if (!(d->control & CONTROL_PASIDS)) {
            return NO_PASIDS;
        }
        if (d->pasid >> PASID_BITS) {
            return BAD_PASID;
        }
        space = space_of(d->pasid);
        if (!space) {
            return TOO_MANY;
        }
    }
    // In one piece: QEMU looks up an entry at a time by itself, and goes on after an error.
    uint32_t result =
        address_space_rw(space, d->address, (struct attributes){0}, d->buffer, d->length, d->direction == 1);
    return result ? REFUSED : MOVED;
}

// ---- registers -----------------------------------------------------------------------------------------------------

static uint32_t register_at(uint64_t at) {
    const struct doorbell *d = &doorbell;
    switch (at) {
    case REG_MAGIC: return (uint32_t)MAGIC;
    case REG_MAGIC + 4: return (uint32_t)(MAGIC >> 32);
    case REG_VERSION: return VERSION;
    case REG_WIDTH: return width;
    case REG_CONTROL: return d->control;
    case REG_STATUS: return d->status;
    case REG_ADDRESS: return (uint32_t)d->address;
    case REG_ADDRESS + 4: return (uint32_t)(d->address >> 32);
    case REG_LENGTH: return d->length;
    case REG_PASID: return d->pasid;
    case REG_DIRECTION: return d->direction;
    case REG_DONE_PASID: return d->done_pasid;
    case REG_DONE_BYTES: return d->done_bytes;
    case REG_COUNT: return d->count;
    default: return 0;
    }
}

static void set_register(uint64_t at, uint32_t value) {
    struct doorbell *d = &doorbell;
    switch (at) {
    case REG_CONTROL: d->control = value & CONTROL_PASIDS; break;
    case REG_ADDRESS: d->address = (d->address & ~UINT64_C(0xffffffff)) | value; break;
    case REG_ADDRESS + 4: d->address = (uint32_t)d->address | (uint64_t)value << 32; break;
    case REG_LENGTH: d->length = value; break;
    case REG_PASID: d->pasid = value; break;
    case REG_DIRECTION: d->direction = value; break;
    case REG_DOORBELL:
        if (!bql_locked()) {
            refuse("a register was written without QEMU's lock");
        }
        d->status = request();
        d->done_pasid = d->pasid;
        d->done_bytes = d->status == MOVED ? d->length : 0;
        d->count++;
        break;
    default: break;
    }
}

// Registers take 4 or 8 bytes at their size, the buffer anything.
static uint64_t window_read(void *opaque, uint64_t at, unsigned size) {
    uint64_t value = 0;
    (void)opaque;
    if (at >= BUFFER && at + size <= WINDOW_SIZE) {
        memcpy(&value, &doorbell.buffer[at - BUFFER], size);
    } else if (at < REGS_END && size >= 4) {
        value = register_at(at);
        if (size == 8) {
            value |= (uint64_t)register_at(at + 4) << 32;
        }
    }
    return value;
}

static void window_write(void *opaque, uint64_t at, uint64_t value, unsigned size) {
    (void)opaque;
    if (at >= BUFFER && at + size <= WINDOW_SIZE) {
        memcpy(&doorbell.buffer[at - BUFFER], &value, size);
    } else if (at < REGS_END && size >= 4) {
        set_register(at, (uint32_t)value);
        if (size == 8) {
            set_register(at + 4, (uint32_t)(value >> 32));
        }
    }
}

static const struct region_ops window_ops = {
    .read = window_read,
    .write = window_write,
    .endianness = LITTLE_ENDIAN_REGISTERS,
    .valid = {.least = 1, .most = 8},
    .implemented = {.least = 1, .most = 8},
};

// ---- set-up --------------------------------------------------------------------------------------------------------

static Object *resolve(const char *path) {
    bool ambiguous = false;
    Object *found = object_resolve_path(path, &ambiguous);
    return ambiguous ? NULL : found;
}

static void find_function(void) {
    char path[256];
    if (snprintf(path, sizeof path, "/machine/peripheral/%s", device_id) >= (int)sizeof path) {
        refuse("device=%s: too long", device_id);
    }
    device = resolve(path);
    if (!device || !object_dynamic_cast(device, "pci-device")) {
        refuse("device=%s: there is no PCI function with this id", device_id);
    }
    bus = object_property_get_link(device, "parent_bus", NULL);
    int64_t address = object_property_get_int(device, "addr", NULL);
    if (!bus || address < 0 || address > 0xff) {
        refuse("device=%s: its place on its bus is not known", device_id);
    }
    devfn = (uint8_t)address;
}

// The unit, and the record of the function's untagged requests, which lies around their address space.
static void find_unit(void) {
    bool ambiguous = false;
    unit = object_resolve_path_type("", "intel-iommu", &ambiguous);
    if (!unit || ambiguous) {
        refuse("this machine has no intel-iommu");
    }
    const void *memory = dlsym(RTLD_DEFAULT, "address_space_memory");
    untagged = pci_device_iommu_address_space(device);
    if (!memory || !untagged || (const void *)untagged == memory) {
        refuse("device=%s: its DMA does not go through the intel-iommu", device_id);
    }
    struct vtd_space *around = (struct vtd_space *)((uint8_t *)untagged - offsetof(struct vtd_space, space));
    if (around->bus != bus || around->devfn != devfn) {
        refuse("device=%s: the unit knows it by another address, or its record is not what this QEMU is known for",
               device_id);
    }
    if (around->pasid != qemu->untagged) {
        refuse("untagged requests have PASID %#x, where this QEMU is known for %#x", around->pasid, qemu->untagged);
    }
    // Asked by name, the unit answers with the same record.
    if (vtd_find_add_as(unit, bus, devfn, qemu->untagged) != around) {
        refuse("the unit has another record of device=%s than its address space is in", device_id);
    }
}

// The extended capability register, read as the guest reads it.
static void read_width(void) {
    uint64_t capabilities = 0;
    Object *registers = object_resolve_path_component(unit, "intel_iommu[0]");
    if (!registers || !object_dynamic_cast(registers, "memory-region") ||
        memory_region_dispatch_read((MemoryRegion *)registers, 0x10, &capabilities, MEMORY_OP_64,
                                    (struct attributes){0}) != 0) {
        refuse("the unit's registers cannot be read");
    }
    if (capabilities >> 40 & 1) {
        width = (unsigned)(capabilities >> 35 & 0x1f) + 1;
    }
    if (width == 0 || width > PASID_BITS) {
        refuse("the unit takes no PASIDs (ECAP %#llx): give it x-pasid-mode=on or pasid-bits=20",
               (unsigned long long)capabilities);
    }
}

// Lays the window over the BAR and sees whether it answers as it must, through QEMU's own dispatch.
static void add_window(void) {
    Object *region = object_resolve_path_component(device, region_name);
    if (!region || !object_dynamic_cast(region, "memory-region")) {
        refuse("region=%s: device=%s has no such memory region", region_name, device_id);
    }
    uint64_t size = memory_region_size((MemoryRegion *)region);
    if (offset % 0x1000 || size < WINDOW_SIZE || offset > size - WINDOW_SIZE) {
        refuse("offset=%#llx: no place for a window of %#x bytes in %s of %#llx", (unsigned long long)offset,
               WINDOW_SIZE, region_name, (unsigned long long)size);
    }
    MemoryRegion *own = (MemoryRegion *)window;
    memory_region_init_io(own, device, &window_ops, &doorbell, "pasid-doorbell", WINDOW_SIZE);
    uint64_t magic = 0, back = 0, mark = UINT64_C(0x0123456789abcdef);
    struct attributes none = {0};
    bool right = memory_region_size(own) == WINDOW_SIZE &&
                 memory_region_dispatch_read(own, REG_MAGIC, &magic, MEMORY_OP_64, none) == 0 && magic == MAGIC &&
                 memory_region_dispatch_write(own, REG_ADDRESS, mark, MEMORY_OP_64, none) == 0 &&
                 memory_region_dispatch_read(own, REG_ADDRESS, &back, MEMORY_OP_64, none) == 0 && back == mark;
    if (!right) {
        refuse("the window does not answer as this QEMU is known for (%#llx, %#llx)", (unsigned long long)magic,
               (unsigned long long)back);
    }
    memset(&doorbell, 0, sizeof doorbell);
    doorbell.pasid = NO_PASID;
    memory_region_add_subregion_overlap((MemoryRegion *)region, offset, own, 1);
}

// Once all devices are there. QEMU holds its lock.
static void machine_done(struct notifier *notifier, void *data) {
    (void)notifier;
    (void)data;
    if (!bql_locked()) {
        refuse("the machine was finished without QEMU's lock");
    }
    find_function();
    find_unit();
    read_width();
    add_window();
}

static void find_symbols(void) {
    const char *missing = NULL;
#define FIND(result, name, parameters)                                                                                 \
    {                                                                                                                  \
        void *symbol = dlsym(RTLD_DEFAULT, #name);                                                                     \
        memcpy(&name, &symbol, sizeof symbol);                                                                         \
        missing = symbol ? missing : #name;                                                                            \
    }
    QEMU_FUNCTIONS(FIND)
    if (missing) {
        refuse("this QEMU has no %s: not a version that is known", missing);
    }
}

static void check_version(const struct install_info *info) {
    struct version_info *version = qmp_query_version(NULL);
    if (!version || !version->qemu) {
        refuse("this QEMU does not say which version it is");
    }
    long long major = version->qemu->major, minor = version->qemu->minor;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (known[i].major == major && known[i].minor == minor) {
            qemu = &known[i];
        }
    }
    if (!qemu) {
        refuse("QEMU %lld.%lld is not known: this works on 10.0 and 11.1 (structures may differ)", major, minor);
    }
    if (info->version.least != qemu->least_api || info->version.current != qemu->current_api) {
        refuse("QEMU %lld.%lld has plugin API %d to %d, and is known for %d to %d", major, minor, info->version.least,
               info->version.current, qemu->least_api, qemu->current_api);
    }
    if (!info->system || strcmp(info->target, "x86_64") != 0) {
        refuse("this is not a machine with an intel-iommu: %s", info->target);
    }
}

static void take(const char *argument) {
    const char *value = strchr(argument, '=');
    size_t key = value ? (size_t)(value - argument) : 0;
    if (key == 6 && !memcmp(argument, "device", key)) {
        device_id = strdup(value + 1);
    } else if (key == 6 && !memcmp(argument, "region", key)) {
        region_name = strdup(value + 1);
    } else if (key == 6 && !memcmp(argument, "offset", key)) {
        char *end = NULL;
        errno = 0;
        offset = strtoull(value + 1, &end, 0);
        has_offset = value[1] != '\0' && *end == '\0' && errno == 0;
    } else {
        refuse("unknown argument %s (device=ID,region=NAME,offset=BYTES)", argument);
    }
}

// ---- what QEMU looks for in a plugin -------------------------------------------------------------------------------

#define EXPORT __attribute__((visibility("default")))

// The API version that this asks for. QEMU reads it before it calls anything here, so that it must be right by then.
EXPORT int qemu_plugin_version = 4;

__attribute__((constructor)) static void choose_version(void) {
    // Came with version 5 or later; of those only 7 is known.
    if (dlsym(RTLD_DEFAULT, "qemu_plugin_set_pc")) {
        qemu_plugin_version = 7;
    }
}

EXPORT int qemu_plugin_install(uint64_t id, const struct install_info *info, int count, char **arguments);

EXPORT int qemu_plugin_install(uint64_t id, const struct install_info *info, int count, char **arguments) {
    static struct notifier notifier = {.notify = machine_done};
    (void)id;
    find_symbols();
    check_version(info);
    for (int i = 0; i < count; i++) {
        take(arguments[i]);
    }
    if (!device_id || !region_name || !has_offset) {
        refuse("needs device=ID,region=NAME,offset=BYTES");
    }
    qemu_add_machine_init_done_notifier(&notifier);
    return 0;
}
