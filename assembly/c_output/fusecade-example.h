/* What the examples beside Fusecade's entry points share: a device, tensors that are the same everywhere, comparison. */
#ifndef FC_EXAMPLE_RUNTIME_H
#define FC_EXAMPLE_RUNTIME_H

#include <math.h>

#include "fusecade-launch.h"

enum { FC_F16, FC_BF16, FC_F32, FC_F64, FC_I1, FC_I8, FC_UI8, FC_I16, FC_I32, FC_I64 };

/* An element of memory, and what it has to be. */
typedef struct fc_expected {
    int64_t element;
    double value;
} fc_expected;

static inline size_t fc_width(int dtype)
{
    static const size_t widths[] = {2, 2, 4, 8, 1, 1, 1, 2, 4, 8};
    return widths[dtype];
}

#if defined(FUSECADE_HIP)
static inline int fc_open(void)
{
    int status = fc_status(hipInit(0));
    return status == FC_OK ? fc_status(hipSetDevice(0)) : status;
}
static inline int fc_close(void) { return FC_OK; }
static inline int fc_wait(void) { return fc_status(hipDeviceSynchronize()); }
static inline int fc_download(void *to, uint64_t from, size_t bytes)
{
    return fc_status(hipMemcpy(to, (const void *)(uintptr_t)from, bytes, hipMemcpyDeviceToHost));
}
#else
static inline int fc_open(void)
{
    CUdevice device;
    CUcontext context;
    int status = fc_status(cuInit(0));
    if (status == FC_OK)
        status = fc_status(cuDeviceGet(&device, 0));
    if (status == FC_OK)
        status = fc_status(cuDevicePrimaryCtxRetain(&context, device));
    return status == FC_OK ? fc_status(cuCtxSetCurrent(context)) : status;
}
static inline int fc_close(void) { return fc_status(cuDevicePrimaryCtxRelease(0)); }
static inline int fc_wait(void) { return fc_status(cuCtxSynchronize()); }
static inline int fc_download(void *to, uint64_t from, size_t bytes)
{
    return fc_status(cuMemcpyDtoH(to, (CUdeviceptr)from, bytes));
}
#endif

/* Element i of tensor t: bits that look random, and are the same on every machine. */
static inline uint32_t fc_bits(uint32_t i, uint32_t t)
{
    uint32_t h = i * UINT32_C(2654435761) + t * UINT32_C(40503) + UINT32_C(12345);
    h = (h ^ (h >> 16)) * UINT32_C(2246822507);
    h = (h ^ (h >> 13)) * UINT32_C(3266489909);
    return h ^ (h >> 16);
}

/* Floats are multiples of 1/64 from -1 on and below 1, which every format has; long integers are 0 to `below` - 1. */
static inline double fc_value(int dtype, uint32_t i, uint32_t t, uint32_t below)
{
    uint32_t bits = fc_bits(i, t) >> 8;
    switch (dtype) {
    case FC_I1:
        return bits & 1;
    case FC_I8:
        return (double)(bits & 127) - 64;
    case FC_UI8:
        return bits & 255;
    case FC_I16:
    case FC_I32:
    case FC_I64:
        return bits % below;
    default:
        return ((double)(bits & 127) - 64) / 64;
    }
}

static inline uint32_t fc_float_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* Of a value that the format has: multiples of 1/64 below 2 in size. */
static inline uint16_t fc_half(double value)
{
    uint32_t bits = fc_float_bits((float)value);
    if ((bits & UINT32_C(0x7fffffff)) == 0)
        return (uint16_t)(bits >> 16);
    return (uint16_t)(((bits >> 16) & 0x8000u) | ((((bits >> 23) & 0xffu) - 112u) << 10) | ((bits >> 13) & 0x3ffu));
}

static inline double fc_from_half(uint16_t half)
{
    int exponent = (half >> 10) & 31, fraction = half & 1023;
    double sign = half & 0x8000 ? -1.0 : 1.0;
    if (exponent == 31)
        return fraction != 0 ? (double)NAN : sign * (double)INFINITY;
    return sign * (exponent == 0 ? ldexp(fraction, -24) : ldexp(fraction + 1024, exponent - 25));
}

static inline void fc_store(void *to, size_t i, int dtype, double value)
{
    unsigned char *at = (unsigned char *)to + i * fc_width(dtype);
    uint16_t two = 0;
    float single = (float)value;
    int64_t whole = (int64_t)value;
    int32_t word = (int32_t)whole;
    int16_t half = (int16_t)whole;
    switch (dtype) {
    case FC_F16:
        two = fc_half(value);
        memcpy(at, &two, 2);
        break;
    case FC_BF16:
        two = (uint16_t)(fc_float_bits(single) >> 16);
        memcpy(at, &two, 2);
        break;
    case FC_F32:
        memcpy(at, &single, 4);
        break;
    case FC_F64:
        memcpy(at, &value, 8);
        break;
    case FC_I16:
        memcpy(at, &half, 2);
        break;
    case FC_I32:
        memcpy(at, &word, 4);
        break;
    case FC_I64:
        memcpy(at, &whole, 8);
        break;
    default:
        *at = (unsigned char)(whole & 255);
    }
}

static inline double fc_fetch(const void *from, size_t i, int dtype)
{
    const unsigned char *at = (const unsigned char *)from + i * fc_width(dtype);
    uint16_t two;
    int16_t half;
    int32_t word;
    int64_t whole;
    uint32_t bits;
    float single;
    double value;
    switch (dtype) {
    case FC_F16:
        memcpy(&two, at, 2);
        return fc_from_half(two);
    case FC_BF16:
        memcpy(&two, at, 2);
        bits = (uint32_t)two << 16;
        memcpy(&single, &bits, 4);
        return (double)single;
    case FC_F32:
        memcpy(&single, at, 4);
        return (double)single;
    case FC_F64:
        memcpy(&value, at, 8);
        return value;
    case FC_I16:
        memcpy(&half, at, 2);
        return half;
    case FC_I32:
        memcpy(&word, at, 4);
        return word;
    case FC_I64:
        memcpy(&whole, at, 8);
        return (double)whole;
    case FC_I8:
        return *at < 128 ? *at : *at - 256;
    default:
        return *at;
    }
}

/* Memory on the device; with `filled`, elements as fc_value has them, else bits that no kernel should leave. */
static inline int fc_make(uint64_t *made, int dtype, size_t count, int filled, uint32_t number, uint32_t below)
{
    size_t i, bytes = count * fc_width(dtype);
    unsigned char *host = (unsigned char *)malloc(bytes + 1);
    int status;
    *made = 0;
    if (host == NULL)
        return FC_OUT_OF_HOST_MEMORY;
    memset(host, 0xff, bytes);
    for (i = 0; filled && i < count; i++)
        fc_store(host, i, dtype, fc_value(dtype, (uint32_t)i, number, below));
    status = bytes > 0 ? fc_upload(made, host, bytes) : FC_OK;
    free(host);
    return status;
}

static inline int fc_differs(double got, double expected, double allowed)
{
    if (isnan(expected) || isnan(got))
        return !(isnan(expected) && isnan(got));
    if (isinf(expected) || isinf(got))
        return got != expected;
    return fabs(got - expected) > allowed;
}

/* Whether memory has what was computed in double precision when this was written: 0 where it does.
 *
 * `all`, `size`: the sum of all elements and that of their sizes.  tolerance: of an element, relative to the largest that is
 * expected, and of the mean of all.  With nothing expected, floats have to be finite.
 */
static inline int fc_compare(const char *name, uint64_t address, int dtype, size_t count, const fc_expected *expected,
                             size_t samples, double all, double size, double tolerance)
{
    unsigned char *host = (unsigned char *)malloc(count * fc_width(dtype) + 1);
    double sum = 0, largest = 0, worst = 0;
    size_t i, wrong = 0, infinite = 0;
    int status;
    if (host == NULL)
        return FC_OUT_OF_HOST_MEMORY;
    if ((status = count > 0 ? fc_download(host, address, count * fc_width(dtype)) : FC_OK) != FC_OK) {
        free(host);
        return status;
    }
    for (i = 0; i < count; i++) {
        double value = fc_fetch(host, i, dtype);
        infinite += !isfinite(value);
        sum += value;
    }
    for (i = 0; i < samples; i++)
        if (isfinite(expected[i].value))
            largest = fmax(largest, fabs(expected[i].value));
    for (i = 0; i < samples; i++) {
        double got = fc_fetch(host, (size_t)expected[i].element, dtype), value = expected[i].value;
        double allowed = tolerance * (largest + fabs(value));
        if (fc_differs(got, value, allowed) && wrong++ < 5)
            printf("%s: element %lld is %.9g, expected %.9g\n", name, (long long)expected[i].element, got, value);
        if (isfinite(got) && isfinite(value))
            worst = fmax(worst, fabs(got - value));
    }
    if (samples == 0)
        wrong += infinite;
    else if (isfinite(all) && fc_differs(sum, all, tolerance * (size + largest)) && wrong++ < 5)
        printf("%s: the sum of its elements is %.9g, expected %.9g\n", name, sum, all);
    printf("%s: %zu elements, checksum %.9g, %zu compared, largest error %.3g: %s\n", name, count, sum, samples, worst,
           wrong == 0 ? "ok" : "WRONG");
    free(host);
    return wrong == 0 ? FC_OK : -1;
}

#endif
