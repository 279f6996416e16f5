/* What the entry points that Fusecade writes share: sizes counted with care, the driver of CUDA or of HIP, modules.
 *
 * Only their sources include this file, and everything in it is static.  C99, C++11; threads of POSIX.
 * With FUSECADE_HIP defined it speaks to HIP, else to CUDA's driver.
 */
#ifndef FC_LAUNCH_RUNTIME_H
#define FC_LAUNCH_RUNTIME_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(FUSECADE_HIP)
#ifndef __HIP_PLATFORM_AMD__
#define __HIP_PLATFORM_AMD__ 1
#endif
#include <hip/hip_runtime_api.h>
#else
#include <cuda.h>
#endif

/* The codes of every entry point; its own header names them again. */
enum {
    FC_OK = 0,
    FC_SIZE_TOO_SMALL = 1,
    FC_SIZE_TOO_LARGE = 2,
    FC_SIZE_BEYOND_BUCKETS = 3,
    FC_SIZES_UNSUPPORTED = 4,
    FC_NULL_POINTER = 5,
    FC_MISALIGNED_POINTER = 6,
    FC_WORKSPACE_TOO_SMALL = 7,
    FC_NO_CONTEXT = 8,
    FC_NO_KERNELS_FOR_DEVICE = 9,
    FC_OUT_OF_HOST_MEMORY = 10,
    FC_CONSTANTS_NOT_LOADED = 11,
    FC_CONSTANTS_UNREADABLE = 12,
    FC_DRIVER = 1000
};

enum {
    FC_ALIGNED = 16,             /* bytes: what kernels were told of the addresses that they are given */
    FC_SLOT = 256,               /* bytes: where parts of the workspace begin */
    FC_STATIC_SHARED = 48 * 1024 /* bytes of shared memory that every kernel may have without asking */
};
#define FC_MOST_PROGRAMS INT64_C(2147483647)
#define FC_NARROW INT64_C(2147418112) /* sizes of kernels that count in 32 bits: a tile may reach beyond the end */

/* --- sizes: 64 bits; `bad` is set where a number does not fit, and what is computed then means nothing -------------- */

static inline int64_t fc_add(int64_t a, int64_t b, int *bad)
{
    if (b > 0 ? a > INT64_MAX - b : a < INT64_MIN - b) {
        *bad = 1;
        return 0;
    }
    return a + b;
}

static inline int64_t fc_sub(int64_t a, int64_t b, int *bad)
{
    if (b < 0 ? a > INT64_MAX + b : a < INT64_MIN + b) {
        *bad = 1;
        return 0;
    }
    return a - b;
}

static inline int64_t fc_mul(int64_t a, int64_t b, int *bad)
{
    int over;
    if (a == 0 || b == 0)
        return 0;
    if (a > 0)
        over = b > 0 ? a > INT64_MAX / b : b < INT64_MIN / a;
    else
        over = b > 0 ? a < INT64_MIN / b : b < INT64_MAX / a;
    if (over) {
        *bad = 1;
        return 0;
    }
    return a * b;
}

/* Rounded towards minus infinity, and the remainder with the divisor's sign, as Python has them. */
static inline int64_t fc_floordiv(int64_t a, int64_t b, int *bad)
{
    if (b == 0 || (a == INT64_MIN && b == -1)) {
        *bad = 1;
        return 0;
    }
    return a / b - (a % b != 0 && (a < 0) != (b < 0));
}

static inline int64_t fc_mod(int64_t a, int64_t b, int *bad)
{
    if (b == 0 || (a == INT64_MIN && b == -1)) {
        *bad = 1;
        return 0;
    }
    return a % b + (a % b != 0 && (a < 0) != (b < 0) ? b : 0);
}

static inline int64_t fc_neg(int64_t a, int *bad) { return fc_sub(0, a, bad); }
static inline int64_t fc_cdiv(int64_t a, int64_t b, int *bad) { return fc_neg(fc_floordiv(fc_neg(a, bad), b, bad), bad); }
static inline int64_t fc_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t fc_max(int64_t a, int64_t b) { return a > b ? a : b; }

/* A part of the workspace holds at least so many bytes. */
static inline void fc_need(int64_t *slot, int64_t bytes) { *slot = fc_max(*slot, bytes); }

/* Where each part begins, in place of its size; returns the size of the whole. */
static inline int64_t fc_lay_out(int64_t *slots, int count, int *bad)
{
    int64_t total = 0;
    int n;
    for (n = 0; n < count; n++) {
        int64_t bytes = slots[n];
        slots[n] = total;
        total = fc_add(total, fc_mul(fc_cdiv(bytes, FC_SLOT, bad), FC_SLOT, bad), bad);
    }
    return total;
}

static inline uint64_t fc_address(const void *pointer) { return (uint64_t)(uintptr_t)pointer; }

static inline int fc_check_pointer(const void *pointer)
{
    if (pointer == NULL)
        return FC_NULL_POINTER;
    return fc_address(pointer) % FC_ALIGNED ? FC_MISALIGNED_POINTER : FC_OK;
}

/* --- the driver ------------------------------------------------------------------------------------------------------ */

/* What is known of a device: CUDA's compute capability, or the name that AMD has for it. */
typedef struct fc_device {
    int major, minor;
    char name[256];
} fc_device;

#if defined(FUSECADE_HIP)

typedef int fc_context; /* HIP goes by the present device */
typedef hipModule_t fc_module;
typedef hipFunction_t fc_function;

static inline int fc_status(hipError_t result) { return result == hipSuccess ? FC_OK : FC_DRIVER + (int)result; }
static inline int fc_current(fc_context *context) { return fc_status(hipGetDevice(context)); }

static inline int fc_describe(fc_context context, fc_device *device)
{
    hipDeviceProp_t properties;
    int status = fc_status(hipGetDeviceProperties(&properties, context));
    size_t length;
    if (status != FC_OK)
        return status;
    device->major = device->minor = 0;
    length = strcspn(properties.gcnArchName, ":");
    if (length >= sizeof device->name)
        length = sizeof device->name - 1;
    memcpy(device->name, properties.gcnArchName, length);
    device->name[length] = '\0';
    return FC_OK;
}

static inline int fc_load_module(fc_module *module, const void *image) { return fc_status(hipModuleLoadData(module, image)); }

static inline int fc_find_function(fc_function *function, fc_module module, const char *symbol, unsigned shared_bytes)
{
    (void)shared_bytes; /* a compute unit has no more than every kernel may use */
    return fc_status(hipModuleGetFunction(function, module, symbol));
}

static inline int fc_unload_module(fc_module module) { return fc_status(hipModuleUnload(module)); }

static inline int fc_launch(fc_function function, int64_t programs, unsigned threads, unsigned shared_bytes, void *stream,
                            void **parameters)
{
    return fc_status(hipModuleLaunchKernel(function, (unsigned)programs, 1, 1, threads, 1, 1, shared_bytes,
                                           (hipStream_t)stream, parameters, NULL));
}

static inline int fc_copy(uint64_t to, uint64_t from, int64_t bytes, void *stream)
{
    return fc_status(hipMemcpyAsync((void *)(uintptr_t)to, (const void *)(uintptr_t)from, (size_t)bytes,
                                    hipMemcpyDeviceToDevice, (hipStream_t)stream));
}

static inline int fc_upload(uint64_t *to, const void *data, size_t bytes)
{
    void *made = NULL;
    int status = fc_status(hipMalloc(&made, bytes));
    if (status == FC_OK && (status = fc_status(hipMemcpy(made, data, bytes, hipMemcpyHostToDevice))) != FC_OK)
        (void)hipFree(made);
    *to = status == FC_OK ? fc_address(made) : 0;
    return status;
}

static inline int fc_free(uint64_t address) { return address ? fc_status(hipFree((void *)(uintptr_t)address)) : FC_OK; }

static inline const char *fc_driver_text(int code) { return hipGetErrorString((hipError_t)code); }

#else

typedef CUcontext fc_context;
typedef CUmodule fc_module;
typedef CUfunction fc_function;

static inline int fc_status(CUresult result) { return result == CUDA_SUCCESS ? FC_OK : FC_DRIVER + (int)result; }

static inline int fc_current(fc_context *context)
{
    int status = fc_status(cuCtxGetCurrent(context));
    return status == FC_OK && *context == NULL ? FC_NO_CONTEXT : status;
}

static inline int fc_describe(fc_context context, fc_device *device)
{
    CUdevice number;
    int status = fc_status(cuCtxGetDevice(&number));
    (void)context; /* it is the current one */
    device->name[0] = '\0';
    if (status == FC_OK)
        status = fc_status(cuDeviceGetAttribute(&device->major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, number));
    if (status == FC_OK)
        status = fc_status(cuDeviceGetAttribute(&device->minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, number));
    return status;
}

static inline int fc_load_module(fc_module *module, const void *image) { return fc_status(cuModuleLoadData(module, image)); }

static inline int fc_find_function(fc_function *function, fc_module module, const char *symbol, unsigned shared_bytes)
{
    int status = fc_status(cuModuleGetFunction(function, module, symbol));
    if (status == FC_OK && shared_bytes > FC_STATIC_SHARED)
        status = fc_status(
            cuFuncSetAttribute(*function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, (int)shared_bytes));
    return status;
}

static inline int fc_unload_module(fc_module module) { return fc_status(cuModuleUnload(module)); }

static inline int fc_launch(fc_function function, int64_t programs, unsigned threads, unsigned shared_bytes, void *stream,
                            void **parameters)
{
    return fc_status(cuLaunchKernel(function, (unsigned)programs, 1, 1, threads, 1, 1, shared_bytes, (CUstream)stream,
                                    parameters, NULL));
}

static inline int fc_copy(uint64_t to, uint64_t from, int64_t bytes, void *stream)
{
    return fc_status(cuMemcpyDtoDAsync((CUdeviceptr)to, (CUdeviceptr)from, (size_t)bytes, (CUstream)stream));
}

static inline int fc_upload(uint64_t *to, const void *data, size_t bytes)
{
    CUdeviceptr made = 0;
    int status = fc_status(cuMemAlloc(&made, bytes));
    if (status == FC_OK && (status = fc_status(cuMemcpyHtoD(made, data, bytes))) != FC_OK)
        (void)cuMemFree(made);
    *to = status == FC_OK ? (uint64_t)made : 0;
    return status;
}

static inline int fc_free(uint64_t address) { return address ? fc_status(cuMemFree((CUdeviceptr)address)) : FC_OK; }

static inline const char *fc_driver_text(int code)
{
    const char *text = NULL;
    return cuGetErrorString((CUresult)code, &text) == CUDA_SUCCESS && text != NULL ? text : "an error of the driver";
}

#endif

static inline const char *fc_error_string(int status)
{
    switch (status) {
    case FC_OK:
        return "no error";
    case FC_SIZE_TOO_SMALL:
        return "a size is below 2: sizes that change were compiled for 2 and more";
    case FC_SIZE_TOO_LARGE:
        return "the sizes are too large: a number that follows from them does not fit in the bits that it has";
    case FC_SIZE_BEYOND_BUCKETS:
        return "a size is beyond the last bucket, and a kernel holds all of it in one block: export with a larger bucket";
    case FC_SIZES_UNSUPPORTED:
        return "the function was not compiled for these sizes: its header says what has to hold of them";
    case FC_NULL_POINTER:
        return "a pointer is null";
    case FC_MISALIGNED_POINTER:
        return "a tensor does not begin at a multiple of 16 bytes, or the workspace not at one of 256";
    case FC_WORKSPACE_TOO_SMALL:
        return "the workspace has fewer bytes than these sizes need";
    case FC_NO_CONTEXT:
        return "no context is current in this thread: cuCtxSetCurrent, or cudaSetDevice and cudaFree(0), make one so";
    case FC_NO_KERNELS_FOR_DEVICE:
        return "there are no kernels for the architecture of this device: export with a target for it";
    case FC_OUT_OF_HOST_MEMORY:
        return "no memory on the host";
    case FC_CONSTANTS_NOT_LOADED:
        return "the constants have not been loaded in this context: call the function that loads them from their file";
    case FC_CONSTANTS_UNREADABLE:
        return "the file of constants cannot be read, or is not the one that was written with this source";
    default:
        return status > FC_DRIVER ? fc_driver_text(status - FC_DRIVER) : "no code of this library";
    }
}

/* --- modules: loaded when they are first needed, once in each context ------------------------------------------------ */

typedef struct fc_kernel {
    const void *image;
    const char *symbol;
    unsigned shared_bytes;
} fc_kernel;

typedef struct fc_loaded {
    fc_context context;
    int target;           /* which of the package's targets runs on this device */
    uint64_t constants;   /* their address on the device, or 0 */
    fc_module *modules;   /* by number of the kernel, NULL until it is needed */
    fc_function *functions;
    struct fc_loaded *next;
} fc_loaded;

typedef struct fc_library {
    pthread_mutex_t lock;
    fc_loaded *first;
    const fc_kernel *kernels;
    int count;
    int (*target_of)(const fc_device *device); /* -1 where nothing fits */
} fc_library;

static inline int fc_enter_new(fc_library *library, fc_context context, fc_loaded **found)
{
    fc_device device;
    fc_loaded *made;
    size_t count = (size_t)library->count + 1; /* calloc(0) may give NULL */
    int target, status = fc_describe(context, &device);
    if (status != FC_OK)
        return status;
    if ((target = library->target_of(&device)) < 0)
        return FC_NO_KERNELS_FOR_DEVICE;
    if ((made = (fc_loaded *)calloc(1, sizeof *made)) == NULL)
        return FC_OUT_OF_HOST_MEMORY;
    made->modules = (fc_module *)calloc(count, sizeof *made->modules);
    made->functions = (fc_function *)calloc(count, sizeof *made->functions);
    if (made->modules == NULL || made->functions == NULL) {
        free(made->modules);
        free(made->functions);
        free(made);
        return FC_OUT_OF_HOST_MEMORY;
    }
    made->context = context;
    made->target = target;
    made->next = library->first;
    library->first = made;
    *found = made;
    return FC_OK;
}

/* What is loaded in the current context. */
static inline int fc_enter(fc_library *library, fc_loaded **found)
{
    fc_context context;
    fc_loaded *at;
    int status = fc_current(&context);
    if (status != FC_OK)
        return status;
    pthread_mutex_lock(&library->lock);
    for (at = library->first; at != NULL && at->context != context;)
        at = at->next;
    if (at == NULL)
        status = fc_enter_new(library, context, &at);
    pthread_mutex_unlock(&library->lock);
    *found = at;
    return status;
}

/* The kernels of these numbers; the context that `loaded` is of has to be current. */
static inline int fc_load(fc_library *library, fc_loaded *loaded, const int *numbers, int count)
{
    int n, status = FC_OK;
    pthread_mutex_lock(&library->lock);
    for (n = 0; n < count && status == FC_OK; n++) {
        const fc_kernel *kernel = &library->kernels[numbers[n]];
        fc_module *module = &loaded->modules[numbers[n]];
        if (loaded->functions[numbers[n]] != NULL)
            continue;
        if (*module == NULL)
            status = fc_load_module(module, kernel->image);
        if (status == FC_OK)
            status = fc_find_function(&loaded->functions[numbers[n]], *module, kernel->symbol, kernel->shared_bytes);
        if (status != FC_OK)
            loaded->functions[numbers[n]] = NULL;
    }
    pthread_mutex_unlock(&library->lock);
    return status;
}

/* Constants go to the device once. */
static inline int fc_load_constants(fc_library *library, fc_loaded *loaded, const void *data, size_t bytes)
{
    int status = FC_OK;
    pthread_mutex_lock(&library->lock);
    if (loaded->constants == 0)
        status = fc_upload(&loaded->constants, data, bytes);
    pthread_mutex_unlock(&library->lock);
    return status;
}

/* Their address, or 0. */
static inline uint64_t fc_constants(fc_library *library, const fc_loaded *loaded)
{
    uint64_t found;
    pthread_mutex_lock(&library->lock);
    found = loaded->constants;
    pthread_mutex_unlock(&library->lock);
    return found;
}

/* The bytes of a file, if there are so many and they have this hash (FNV-1a, 64 bits); to be freed. */
static inline int fc_read_constants(const char *path, size_t bytes, uint64_t hash, unsigned char **found)
{
    FILE *file = path != NULL ? fopen(path, "rb") : NULL;
    unsigned char *data;
    uint64_t here = UINT64_C(14695981039346656037);
    size_t n, got;
    *found = NULL;
    if (file == NULL)
        return FC_CONSTANTS_UNREADABLE;
    if ((data = (unsigned char *)malloc(bytes + 1)) == NULL) {
        fclose(file);
        return FC_OUT_OF_HOST_MEMORY;
    }
    got = fread(data, 1, bytes + 1, file); /* one more shows a file that is longer */
    fclose(file);
    for (n = 0; n < got; n++)
        here = (here ^ data[n]) * UINT64_C(1099511628211);
    if (got != bytes || here != hash) {
        free(data);
        return FC_CONSTANTS_UNREADABLE;
    }
    *found = data;
    return FC_OK;
}

/* Takes out of the current context what was loaded there; the first error is kept, and the rest is still done. */
static inline int fc_unload(fc_library *library)
{
    fc_context context;
    fc_loaded **link, *at;
    int n, again, status = fc_current(&context);
    if (status != FC_OK)
        return status;
    pthread_mutex_lock(&library->lock);
    for (link = &library->first; *link != NULL && (*link)->context != context;)
        link = &(*link)->next;
    if ((at = *link) != NULL) {
        *link = at->next;
        for (n = 0; n < library->count; n++)
            if (at->modules[n] != NULL && (again = fc_unload_module(at->modules[n])) != FC_OK && status == FC_OK)
                status = again;
        if ((again = fc_free(at->constants)) != FC_OK && status == FC_OK)
            status = again;
        free(at->modules);
        free(at->functions);
        free(at);
    }
    pthread_mutex_unlock(&library->lock);
    return status;
}

#endif
