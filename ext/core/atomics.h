/* atomics.h - C11 atomics, also where the compiler has none.
 *
 * With <stdatomic.h> this adds one word, KA_ATOMIC(type), and nothing else:
 * the code that comes out is the same as without this header. Without it
 * (Microsoft's compiler, which says __STDC_NO_ATOMICS__) the operations that
 * this package uses are made here, under their names from the standard.
 *
 * The dangers of making them, and how they are kept out:
 *
 * Weaker than asked. Every operation that reads and writes is the compiler's
 * own interlocked one, a full barrier whatever order was asked for. A store
 * in sequential order is an exchange. A plain load or store is one access to
 * a volatile object of the machine's width, which no compiler tears, merges
 * or leaves out; for acquire and release the compiler may not move anything
 * across it, and on ARM, where the processor would, a barrier keeps it. x86
 * keeps the order of plain loads and of plain stores by itself.
 *
 * Torn. 64 bits on a 32-bit machine take a compare-exchange even to be read.
 *
 * A wrong width. The operation is chosen by the type of what is pointed at
 * (_Generic), not by a name that somebody must get right: int, 32 bits, 64
 * bits, and everything else is a pointer.
 *
 * Unseen by the tools. A race detector takes volatile for a plain access. It
 * sees the standard's atomics on the systems where it runs; there the same
 * layer is made of the compiler's __atomic functions when KA_NO_C11_ATOMICS
 * asks for it, so that the choice by type is tested under it too.
 */
#ifndef KA_ATOMICS_H
#define KA_ATOMICS_H

#if !defined(KA_NO_C11_ATOMICS) && !defined(__STDC_NO_ATOMICS__)

#include <stdatomic.h>

#define KA_ATOMIC(type) _Atomic(type)

#else

#include <stddef.h>
#include <stdint.h>

#define KA_ATOMIC(type) type volatile

enum ka_memory_order {
    memory_order_relaxed,
    memory_order_acquire,
    memory_order_release,
    memory_order_acq_rel,
    memory_order_seq_cst
};

/* ---- what the machine has: all of it in sequential order ---------------- */

#ifdef _WIN32

#include <intrin.h>

#if defined(_M_ARM64) || defined(_M_ARM)
#ifdef _MSC_VER
#define KA_BARRIER() __dmb(0xB) /* all of the inner domain, both ways */
#else
#define KA_BARRIER() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#endif
#else
#define KA_BARRIER() _ReadWriteBarrier()
#endif

static inline uint32_t ka_swap_32(volatile uint32_t *word, uint32_t value) {
    return (uint32_t)_InterlockedExchange((volatile long *)word, (long)value);
}

static inline uint32_t ka_add_32(volatile uint32_t *word, uint32_t value) {
    return (uint32_t)_InterlockedExchangeAdd((volatile long *)word,
                                             (long)value);
}

static inline uint32_t ka_or_32(volatile uint32_t *word, uint32_t value) {
    return (uint32_t)_InterlockedOr((volatile long *)word, (long)value);
}

static inline uint32_t ka_cas_32(volatile uint32_t *word, uint32_t expected,
                                 uint32_t value) {
    return (uint32_t)_InterlockedCompareExchange((volatile long *)word,
                                                 (long)value, (long)expected);
}

static inline uint64_t ka_cas_64(volatile uint64_t *word, uint64_t expected,
                                 uint64_t value) {
    return (uint64_t)_InterlockedCompareExchange64(
        (volatile __int64 *)word, (__int64)value, (__int64)expected);
}

#ifdef _WIN64

static inline uint64_t ka_swap_64(volatile uint64_t *word, uint64_t value) {
    return (uint64_t)_InterlockedExchange64((volatile __int64 *)word,
                                            (__int64)value);
}

static inline uint64_t ka_add_64(volatile uint64_t *word, uint64_t value) {
    return (uint64_t)_InterlockedExchangeAdd64((volatile __int64 *)word,
                                               (__int64)value);
}

static inline uint64_t ka_or_64(volatile uint64_t *word, uint64_t value) {
    return (uint64_t)_InterlockedOr64((volatile __int64 *)word,
                                      (__int64)value);
}

static inline uint64_t ka_get_64(const volatile uint64_t *word) {
    return *word;
}

static inline void ka_put_64(volatile uint64_t *word, uint64_t value) {
    *word = value;
}

#else /* 32 bits: everything is a compare-exchange */

static inline uint64_t ka_get_64(const volatile uint64_t *word) {
    return ka_cas_64((volatile uint64_t *)word, 0, 0);
}

static inline uint64_t ka_swap_64(volatile uint64_t *word, uint64_t value) {
    uint64_t seen = ka_get_64(word), was;

    while ((was = ka_cas_64(word, seen, value)) != seen)
        seen = was;
    return seen;
}

static inline uint64_t ka_add_64(volatile uint64_t *word, uint64_t value) {
    uint64_t seen = ka_get_64(word), was;

    while ((was = ka_cas_64(word, seen, seen + value)) != seen)
        seen = was;
    return seen;
}

static inline uint64_t ka_or_64(volatile uint64_t *word, uint64_t value) {
    uint64_t seen = ka_get_64(word), was;

    while ((was = ka_cas_64(word, seen, seen | value)) != seen)
        seen = was;
    return seen;
}

static inline void ka_put_64(volatile uint64_t *word, uint64_t value) {
    (void)ka_swap_64(word, value);
}

#endif

#define KA_GET_32(word) (*(word))
#define KA_PUT_32(word, value) (*(word) = (value))

#else /* not Windows: to test what stands below */

#define KA_BARRIER() ((void)0) /* the accesses are in order themselves */
#define KA_GET_32(word) __atomic_load_n(word, __ATOMIC_SEQ_CST)
#define KA_PUT_32(word, value) __atomic_store_n(word, value, __ATOMIC_SEQ_CST)
#define ka_get_64(word) __atomic_load_n(word, __ATOMIC_SEQ_CST)
#define ka_put_64(word, value) __atomic_store_n(word, value, __ATOMIC_SEQ_CST)
#define ka_swap_32(word, value) \
    __atomic_exchange_n(word, value, __ATOMIC_SEQ_CST)
#define ka_swap_64 ka_swap_32
#define ka_add_32(word, value) \
    __atomic_fetch_add(word, value, __ATOMIC_SEQ_CST)
#define ka_add_64 ka_add_32
#define ka_or_32(word, value) __atomic_fetch_or(word, value, __ATOMIC_SEQ_CST)
#define ka_or_64 ka_or_32

static inline uint32_t ka_cas_32(volatile uint32_t *word, uint32_t expected,
                                 uint32_t value) {
    __atomic_compare_exchange_n(word, &expected, value, 0, __ATOMIC_SEQ_CST,
                                __ATOMIC_SEQ_CST);
    return expected;
}

static inline uint64_t ka_cas_64(volatile uint64_t *word, uint64_t expected,
                                 uint64_t value) {
    __atomic_compare_exchange_n(word, &expected, value, 0, __ATOMIC_SEQ_CST,
                                __ATOMIC_SEQ_CST);
    return expected;
}

#endif

/* ---- in the order that was asked for ------------------------------------ */

static inline uint32_t ka_load_32(const volatile uint32_t *word, int order) {
    uint32_t value;

    if (order == memory_order_seq_cst)
        KA_BARRIER();
    value = KA_GET_32(word);
    if (order != memory_order_relaxed)
        KA_BARRIER();
    return value;
}

static inline uint64_t ka_load_64(const volatile uint64_t *word, int order) {
    uint64_t value;

    if (order == memory_order_seq_cst)
        KA_BARRIER();
    value = ka_get_64(word);
    if (order != memory_order_relaxed)
        KA_BARRIER();
    return value;
}

static inline void ka_store_32(volatile uint32_t *word, uint32_t value,
                               int order) {
    if (order == memory_order_seq_cst) {
        (void)ka_swap_32(word, value);
        return;
    }
    if (order != memory_order_relaxed)
        KA_BARRIER();
    KA_PUT_32(word, value);
}

static inline void ka_store_64(volatile uint64_t *word, uint64_t value,
                               int order) {
    if (order == memory_order_seq_cst) {
        (void)ka_swap_64(word, value);
        return;
    }
    if (order != memory_order_relaxed)
        KA_BARRIER();
    ka_put_64(word, value);
}

static inline uint32_t ka_exchange_32(volatile uint32_t *word, uint32_t value,
                                      int order) {
    (void)order;
    return ka_swap_32(word, value);
}

static inline uint64_t ka_exchange_64(volatile uint64_t *word, uint64_t value,
                                      int order) {
    (void)order;
    return ka_swap_64(word, value);
}

static inline uint32_t ka_fetch_add_32(volatile uint32_t *word, uint32_t value,
                                       int order) {
    (void)order;
    return ka_add_32(word, value);
}

static inline uint64_t ka_fetch_add_64(volatile uint64_t *word, uint64_t value,
                                       int order) {
    (void)order;
    return ka_add_64(word, value);
}

static inline uint32_t ka_fetch_or_32(volatile uint32_t *word, uint32_t value,
                                      int order) {
    (void)order;
    return ka_or_32(word, value);
}

static inline uint64_t ka_fetch_or_64(volatile uint64_t *word, uint64_t value,
                                      int order) {
    (void)order;
    return ka_or_64(word, value);
}

static inline int ka_replace_32(volatile uint32_t *word, uint32_t *expected,
                                uint32_t value) {
    uint32_t seen = ka_cas_32(word, *expected, value);
    int same = seen == *expected;

    *expected = seen;
    return same;
}

static inline int ka_replace_64(volatile uint64_t *word, uint64_t *expected,
                                uint64_t value) {
    uint64_t seen = ka_cas_64(word, *expected, value);
    int same = seen == *expected;

    *expected = seen;
    return same;
}

/* int is of 32 bits wherever this is built. */
static inline int ka_load_int(const volatile int *word, int order) {
    return (int)ka_load_32((const volatile uint32_t *)word, order);
}

static inline void ka_store_int(volatile int *word, int value, int order) {
    ka_store_32((volatile uint32_t *)word, (uint32_t)value, order);
}

static inline int ka_exchange_int(volatile int *word, int value, int order) {
    return (int)ka_exchange_32((volatile uint32_t *)word, (uint32_t)value,
                               order);
}

static inline int ka_fetch_add_int(volatile int *word, int value, int order) {
    return (int)ka_fetch_add_32((volatile uint32_t *)word, (uint32_t)value,
                                order);
}

#if UINTPTR_MAX > 0xFFFFFFFFu
#define KA_WORD(of) of##_64
typedef uint64_t ka_address;
#else
#define KA_WORD(of) of##_32
typedef uint32_t ka_address;
#endif

static inline void *ka_load_pointer(const volatile void *word, int order) {
    return (void *)(uintptr_t)KA_WORD(ka_load)(word, order);
}

static inline void ka_store_pointer(volatile void *word, const void *value,
                                    int order) {
    KA_WORD(ka_store)(word, (ka_address)(uintptr_t)value, order);
}

static inline void *ka_exchange_pointer(volatile void *word, const void *value,
                                        int order) {
    return (void *)(uintptr_t)KA_WORD(ka_exchange)(
        word, (ka_address)(uintptr_t)value, order);
}

/* ---- by the type of what is pointed at ---------------------------------- */

/* Not every compiler drops the qualifiers first; those that do complain. */
#if defined(_MSC_VER) && !defined(__clang__)
#define KA_CASE(type, function) \
    type:                       \
    function, volatile type : function, const volatile type : function
#else
#define KA_CASE(type, function) \
    type:                       \
    function
#endif
#define KA_OF_UNSIGNED(word, of) \
    _Generic(*(word), KA_CASE(uint32_t, of##_32), KA_CASE(uint64_t, of##_64))
#define KA_OF_NUMBER(word, of)      \
    _Generic(*(word),               \
        KA_CASE(uint32_t, of##_32), \
        KA_CASE(uint64_t, of##_64), \
        KA_CASE(int, of##_int))
#define KA_OF_ANY(word, of)         \
    _Generic(*(word),               \
        KA_CASE(uint32_t, of##_32), \
        KA_CASE(uint64_t, of##_64), \
        KA_CASE(int, of##_int),     \
        default: of##_pointer)

#define atomic_init(word, value) ((void)(*(word) = (value)))
#define atomic_load_explicit(word, order) KA_OF_ANY(word, ka_load)(word, order)
#define atomic_store_explicit(word, value, order) \
    KA_OF_ANY(word, ka_store)(word, value, order)
#define atomic_exchange_explicit(word, value, order) \
    KA_OF_ANY(word, ka_exchange)(word, value, order)
#define atomic_fetch_add_explicit(word, value, order) \
    KA_OF_NUMBER(word, ka_fetch_add)(word, value, order)
#define atomic_fetch_or_explicit(word, value, order) \
    KA_OF_UNSIGNED(word, ka_fetch_or)(word, value, order)
#define atomic_compare_exchange_strong(word, expected, value) \
    KA_OF_UNSIGNED(word, ka_replace)(word, expected, value)

#define atomic_load(word) atomic_load_explicit(word, memory_order_seq_cst)
#define atomic_store(word, value) \
    atomic_store_explicit(word, value, memory_order_seq_cst)
#define atomic_exchange(word, value) \
    atomic_exchange_explicit(word, value, memory_order_seq_cst)
#define atomic_fetch_add(word, value) \
    atomic_fetch_add_explicit(word, value, memory_order_seq_cst)
#define atomic_fetch_sub(word, value) atomic_fetch_add(word, 0 - (value))
#define atomic_fetch_or(word, value) \
    atomic_fetch_or_explicit(word, value, memory_order_seq_cst)
#define atomic_compare_exchange_weak atomic_compare_exchange_strong
#define atomic_compare_exchange_strong_explicit(word, expected, value, yes, \
                                                no)                         \
    atomic_compare_exchange_strong(word, expected, value)
#define atomic_compare_exchange_weak_explicit(word, expected, value, yes, no) \
    atomic_compare_exchange_strong(word, expected, value)

#endif

#endif
