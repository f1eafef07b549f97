#pragma once
long _InterlockedExchange(volatile long *word, long value);
long _InterlockedExchangeAdd(volatile long *word, long value);
long _InterlockedOr(volatile long *word, long value);
long _InterlockedCompareExchange(volatile long *word, long value,
                                 long expected);
__int64 _InterlockedExchange64(volatile __int64 *word, __int64 value);
__int64 _InterlockedExchangeAdd64(volatile __int64 *word, __int64 value);
__int64 _InterlockedOr64(volatile __int64 *word, __int64 value);
__int64 _InterlockedCompareExchange64(volatile __int64 *word, __int64 value,
                                      __int64 expected);
void _ReadWriteBarrier(void);
void __dmb(unsigned int kind);
