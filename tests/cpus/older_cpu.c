/* An x86-64 CPU without its newest instructions, for one process and its children.
 *
 * Preloaded into a process (LD_PRELOAD) whose environment has OLDER_CPU=LEVEL, this library makes the instruction CPUID
 * fault, answers it in the signal handler, and leaves the features out that the level lacks. Libraries ask CPUID which
 * kernels to use, so numpy and ONNX Runtime choose those of the older CPU and run them at full speed. What a library
 * uses without asking still works. /proc/cpuinfo comes from the kernel and lists all features as before.
 *
 * The kernel keeps the switch per thread and hands it to new threads and forked children. A new program starts with
 * CPUID as it is; LD_PRELOAD and OLDER_CPU are in its environment, so it gets here again.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#ifndef ARCH_SET_CPUID
#define ARCH_SET_CPUID 0x1012
#endif
#ifndef SI_KERNEL
#define SI_KERNEL 0x80
#endif
#define BIT(n) (1u << (n))

/* Where the process cannot have the CPU that it asked for; the tests know this exit status. */
enum { UNAVAILABLE = 77 };

enum { EAX, EBX, ECX, EDX };
enum { AVX = BIT(0), AVX512 = BIT(1), ICE_LAKE = BIT(2), AVX_VNNI = BIT(3), NEWEST = BIT(4) };

static const struct level {
    const char *name;
    unsigned shown;
} LEVELS[] = {
    {"sse4", 0},                            /* Nehalem */
    {"avx2", AVX},                          /* Haswell, Zen 3 */
    {"avx-vnni", AVX | AVX_VNNI},           /* Alder Lake: VNNI without AVX-512 */
    {"avx512", AVX | AVX512},               /* Skylake-X: AVX-512 without VNNI */
    {"vnni", AVX | AVX512 | ICE_LAKE},      /* Ice Lake: AVX-512 with VNNI, without AMX */
};

/* Every bit of CPUID that some level lacks, by the group that has it. */
static const struct feature {
    unsigned leaf, subleaf, output, bits, group;
} FEATURES[] = {
    {0x1, 0, ECX, BIT(12) | BIT(28) | BIT(29), AVX},                     /* FMA, AVX, F16C */
    {0x7, 0, EBX, BIT(3) | BIT(5) | BIT(8), AVX},                        /* BMI1, AVX2, BMI2 */
    {0x80000001, 0, ECX, BIT(11) | BIT(16), AVX},                        /* XOP, FMA4 of AMD */
    {0x7, 0, EBX, BIT(16) | BIT(17) | BIT(28) | BIT(30) | BIT(31), AVX512}, /* F, DQ, CD, BW, VL */
    {0x7, 0, EBX, BIT(21), ICE_LAKE},                                    /* IFMA */
    {0x7, 0, ECX, BIT(1) | BIT(6) | BIT(12) | BIT(14), ICE_LAKE},        /* VBMI, VBMI2, BITALG, VPOPCNTDQ */
    {0x7, 0, ECX, BIT(8) | BIT(9) | BIT(10), ICE_LAKE},                  /* GFNI, VAES, VPCLMULQDQ */
    {0x7, 0, ECX, BIT(11), ICE_LAKE},                                    /* AVX-512 VNNI */
    {0x7, 1, EAX, BIT(4), AVX_VNNI},                                     /* AVX-VNNI */
    {0x7, 0, EBX, BIT(26) | BIT(27), NEWEST},                            /* AVX-512 ER, PF of Xeon Phi */
    {0x7, 0, EDX, BIT(2) | BIT(3) | BIT(8) | BIT(23), NEWEST},           /* 4VNNIW, 4FMAPS, VP2INTERSECT, FP16 */
    {0x7, 0, EDX, BIT(22) | BIT(24) | BIT(25), NEWEST},                  /* AMX: BF16, TILE, INT8 */
    {0x7, 1, EAX, BIT(5) | BIT(21) | BIT(23), NEWEST},                   /* AVX-512 BF16, AMX FP16, AVX-IFMA */
    {0x7, 1, EDX, BIT(4) | BIT(5) | BIT(8) | BIT(10) | BIT(19), NEWEST}, /* VNNI INT8, NE-CONVERT, AMX COMPLEX, VNNI
                                                                            INT16, AVX10 */
    {0x1D, 0, EAX, ~0u, NEWEST},                                         /* the palettes of AMX */
    {0x1E, 1, EAX, ~0u, NEWEST},                                         /* more of AMX: FP8, TF32 and so on */
};

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static const struct level *level; /* NULL: CPUID is left alone */
static struct sigaction others;   /* what the program itself does about SIGSEGV */
static int (*next_sigaction)(int, const struct sigaction *, struct sigaction *);

/* Not by arch_prctl() of libc, which old releases lack. */
static long set_cpuid(int works) { return syscall(SYS_arch_prctl, ARCH_SET_CPUID, (long)works); }

static void answer(greg_t *registers) {
    unsigned leaf = (unsigned)registers[REG_RAX], subleaf = (unsigned)registers[REG_RCX], out[4];
    set_cpuid(1); /* for this thread alone */
    __asm__ volatile("cpuid" : "=a"(out[EAX]), "=b"(out[EBX]), "=c"(out[ECX]), "=d"(out[EDX]) : "a"(leaf), "c"(subleaf));
    set_cpuid(0);
    /* A leaf without a match passes as it is, those of the hypervisor (0x40000000 and up) among them. Leaves without
       subleaves ignore ECX, which may then hold anything. */
    for (size_t i = 0; i < COUNT(FEATURES); i++) {
        const struct feature *f = &FEATURES[i];
        int has_subleaves = f->leaf == 0x7 || f->leaf == 0x1D || f->leaf == 0x1E;
        if (f->leaf == leaf && (!has_subleaves || f->subleaf == subleaf) && !(level->shown & f->group))
            out[f->output] &= ~f->bits;
    }
    registers[REG_RAX] = out[EAX];
    registers[REG_RBX] = out[EBX];
    registers[REG_RCX] = out[ECX];
    registers[REG_RDX] = out[EDX];
    registers[REG_RIP] += 2;
}

/* A fault that is none of CPUID's goes to the program's own handler; without one, the instruction faults again and ends
   the process as ever. */
static void pass_on(int number, siginfo_t *info, void *context) {
    if (others.sa_flags & SA_SIGINFO)
        others.sa_sigaction(number, info, context);
    else if (others.sa_handler == SIG_DFL || others.sa_handler == SIG_IGN)
        next_sigaction(SIGSEGV, &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
    else
        others.sa_handler(number);
}

static void on_fault(int number, siginfo_t *info, void *context) {
    ucontext_t *state = context;
    const unsigned char *code = (const unsigned char *)state->uc_mcontext.gregs[REG_RIP];
    int saved = errno;
    /* Bad pointers have other codes than SI_KERNEL, and where they do the instruction itself may not be readable. */
    if (info->si_code == SI_KERNEL && code[0] == 0x0F && code[1] == 0xA2)
        answer(state->uc_mcontext.gregs);
    else
        pass_on(number, info, context);
    errno = saved;
}

/* In front of libc's: a program that handles SIGSEGV, as Python's faulthandler does, would take CPUID's faults away. */
int sigaction(int number, const struct sigaction *action, struct sigaction *before) {
    if (next_sigaction == NULL)
        next_sigaction = (int (*)(int, const struct sigaction *, struct sigaction *))dlsym(RTLD_NEXT, "sigaction");
    if (level == NULL || number != SIGSEGV)
        return next_sigaction(number, action, before);
    struct sigaction former = others;
    if (action != NULL)
        others = *action;
    if (before != NULL)
        *before = former;
    return 0;
}

static void refuse(const char *name, const char *reason) {
    fprintf(stderr, "OLDER_CPU=%s: %s\n", name, reason);
    _exit(UNAVAILABLE);
}

__attribute__((constructor)) static void start(void) {
    const char *name = getenv("OLDER_CPU");
    if (name == NULL)
        return;
    const struct level *chosen = NULL;
    for (size_t i = 0; i < COUNT(LEVELS); i++)
        if (strcmp(LEVELS[i].name, name) == 0)
            chosen = &LEVELS[i];
    if (chosen == NULL)
        refuse(name, "no such level");
    struct sigaction handler;
    memset(&handler, 0, sizeof handler);
    /* Not on the alternate stack, which may be too small for the state of AVX-512 and AMX; other signals may come. */
    handler.sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESTART;
    handler.sa_sigaction = on_fault;
    sigaction(SIGSEGV, &handler, &others); /* while `level` is unset: the real one */
    level = chosen;
    if (set_cpuid(0) != 0)
        refuse(name, "this CPU, kernel or hypervisor cannot make CPUID fault");
}
