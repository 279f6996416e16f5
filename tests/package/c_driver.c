/* Stands for libcuda or libamdhip64 (FUSECADE_HIP) behind a program in C: memory is the host's, and who built it runs kernels.
 *
 * Its functions have the prototypes of the real headers.  It notes what it is asked for (stub_said), counts what is held
 * (stub_held), and looks behind the end of each allocation when that is freed.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(FUSECADE_HIP)
#define __HIP_PLATFORM_AMD__ 1
#include <hip/hip_runtime_api.h>
typedef hipError_t result;
#define OUT_OF_MEMORY hipErrorOutOfMemory
#else
#include <cuda.h>
typedef CUresult result;
#define OUT_OF_MEMORY CUDA_ERROR_OUT_OF_MEMORY
#endif

enum { GUARD = 256 };

typedef struct module { const void *image; } module;
typedef struct function { const module *of; char symbol[200]; } function;
typedef struct memory { unsigned char *begin; size_t bytes; struct memory *next; } memory;

/* Runs a kernel; dims: of the grid, then of a block. */
typedef int runner(const void *image, const char *symbol, const unsigned *dims, unsigned shared, void *stream, void **parameters);

static char said[1 << 16], arch[256] = "gfx942";
static int major = 9, minor = 0, modules, fails_with;
static char failing[64];
static runner *run;
static memory *first;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of what is noted */

void stub_begin(runner *kernels, int new_major, int new_minor, const char *name) {
    run = kernels, major = new_major, minor = new_minor, said[0] = 0, failing[0] = 0;
    snprintf(arch, sizeof arch, "%s", name);
}
void stub_fail(const char *name, int code) { snprintf(failing, sizeof failing, "%s", name), fails_with = code; }
const char *stub_said(void) { return said; }
int stub_held(void) {
    int count = modules;
    for (memory *m = first; m; m = m->next) count++;
    return count;
}

/* Notes a call; gives what it is to return. */
static result say(const char *name, const char *text) {
    pthread_mutex_lock(&lock);
    size_t length = strlen(said);
    snprintf(said + length, sizeof said - length, "%s%s%s\n", name, *text ? " " : "", text);
    pthread_mutex_unlock(&lock);
    return (result)(strcmp(name, failing) ? 0 : fails_with);
}

static result make(void **found, size_t bytes) {
    memory *m = malloc(sizeof *m);
    unsigned char *begin = aligned_alloc(256, (bytes + GUARD + 511) / 256 * 256);
    result status = say("allocate", "");
    *found = NULL;
    if (status || !m || !begin) return status ? status : OUT_OF_MEMORY;
    memset(begin, 0xaa, bytes + GUARD);
    m->begin = begin, m->bytes = bytes, m->next = first, first = m;
    *found = begin;
    return (result)0;
}

static result drop(void *begin) {
    for (memory **link = &first; *link; link = &(*link)->next) {
        memory *m = *link;
        if (m->begin != begin) continue;
        for (int n = 0; n < GUARD; n++)
            if (m->begin[m->bytes + n] != 0xaa) return say("OVERRUN", ""), (result)1;
        *link = m->next;
        free(m->begin), free(m);
        return (result)0;
    }
    return say("FREE of what is not held", ""), (result)1;
}

static result load(void **made, const void *image) {
    module *m = malloc(sizeof *m);
    result status = say("load", "");
    if (status) return free(m), status;
    m->image = image, *made = m, modules++;
    return (result)0;
}
static result find(void **made, const void *of, const char *symbol) {
    function *f = malloc(sizeof *f); /* stays: functions belong to modules, and a test is short */
    f->of = of, snprintf(f->symbol, sizeof f->symbol, "%s", symbol);
    *made = f;
    return say("find", symbol);
}
static result unload(void *m) { return free(m), modules--, say("unload", ""); }
static result launch(const void *handle, const unsigned *dims, unsigned shared, void *stream, void **parameters, void **extra) {
    const function *f = handle;
    char text[300];
    snprintf(text, sizeof text, "%s grid %u %u %u block %u %u %u shared %u%s", f->symbol, dims[0], dims[1], dims[2], dims[3],
             dims[4], dims[5], shared, extra ? " EXTRA" : "");
    result status = say("launch", text);
    return status || !run ? status : (result)run(f->of->image, f->symbol, dims, shared, stream, parameters);
}
static result copy(void *to, const void *from, size_t bytes, const char *how) {
    result status = say("copy", how);
    if (!status) memmove(to, from, bytes);
    return status;
}

#if defined(FUSECADE_HIP)

static __thread int present;
hipError_t hipInit(unsigned flags) { return (void)flags, say("init", ""); }
hipError_t hipSetDevice(int device) { return present = device, say("device", ""); }
hipError_t hipGetDevice(int *device) { return *device = present, hipSuccess; }
hipError_t hipGetDeviceProperties(hipDeviceProp_t *properties, int device) {
    (void)device;
    memset(properties, 0, sizeof *properties);
    snprintf(properties->gcnArchName, sizeof properties->gcnArchName, "%.200s:sramecc+:xnack-", arch);
    return hipSuccess;
}
hipError_t hipModuleLoadData(hipModule_t *m, const void *image) { return load((void **)m, image); }
hipError_t hipModuleGetFunction(hipFunction_t *f, hipModule_t m, const char *name) { return find((void **)f, m, name); }
hipError_t hipModuleUnload(hipModule_t m) { return unload(m); }
hipError_t hipModuleLaunchKernel(hipFunction_t f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                                 unsigned shared, hipStream_t stream, void **parameters, void **extra) {
    return launch(f, (unsigned[]){gx, gy, gz, bx, by, bz}, shared, stream, parameters, extra);
}
hipError_t hipMemcpyAsync(void *to, const void *from, size_t bytes, hipMemcpyKind kind, hipStream_t stream) {
    return (void)stream, copy(to, from, bytes, kind == hipMemcpyDeviceToDevice ? "on the device" : "OTHERWISE");
}
hipError_t hipMemcpy(void *to, const void *from, size_t bytes, hipMemcpyKind kind) {
    return copy(to, from, bytes, kind == hipMemcpyHostToDevice ? "up" : kind == hipMemcpyDeviceToHost ? "down" : "OTHERWISE");
}
hipError_t hipMalloc(void **made, size_t bytes) { return make(made, bytes); }
hipError_t hipFree(void *begin) { return drop(begin); }
hipError_t hipDeviceSynchronize(void) { return say("wait", ""); }
const char *hipGetErrorString(hipError_t code) { return code == hipErrorOutOfMemory ? "out of memory" : "another error"; }

#else

static __thread CUcontext context;
CUresult cuInit(unsigned flags) { return (void)flags, say("init", ""); }
CUresult cuDeviceGet(CUdevice *device, int index) { return *device = index, CUDA_SUCCESS; }
CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute which, CUdevice device) {
    (void)device;
    if (which == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) return *value = major, CUDA_SUCCESS;
    if (which == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR) return *value = minor, CUDA_SUCCESS;
    return CUDA_ERROR_INVALID_VALUE;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext *made, CUdevice device) {
    return *made = (CUcontext)(size_t)(0x30 + device), say("retain", "");
}
CUresult cuDevicePrimaryCtxRelease(CUdevice device) { return (void)device, say("release", ""); }
CUresult cuCtxSetCurrent(CUcontext new) { return context = new, CUDA_SUCCESS; }
CUresult cuCtxGetCurrent(CUcontext *found) { return *found = context, CUDA_SUCCESS; }
CUresult cuCtxGetDevice(CUdevice *device) { return *device = 0, CUDA_SUCCESS; }
CUresult cuCtxSynchronize(void) { return say("wait", ""); }
CUresult cuModuleLoadData(CUmodule *m, const void *image) { return load((void **)m, image); }
CUresult cuModuleGetFunction(CUfunction *f, CUmodule m, const char *name) { return find((void **)f, m, name); }
CUresult cuModuleUnload(CUmodule m) { return unload(m); }
CUresult cuFuncSetAttribute(CUfunction f, CUfunction_attribute which, int value) {
    char text[100];
    (void)f;
    snprintf(text, sizeof text, "%d %d", (int)which, value);
    return say("set", text);
}
CUresult cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                        unsigned shared, CUstream stream, void **parameters, void **extra) {
    return launch(f, (unsigned[]){gx, gy, gz, bx, by, bz}, shared, stream, parameters, extra);
}
CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    return (void)stream, copy((void *)to, (const void *)from, bytes, "on the device");
}
CUresult cuMemcpyHtoD(CUdeviceptr to, const void *from, size_t bytes) { return copy((void *)to, from, bytes, "up"); }
CUresult cuMemcpyDtoH(void *to, CUdeviceptr from, size_t bytes) { return copy(to, (const void *)from, bytes, "down"); }
CUresult cuMemAlloc(CUdeviceptr *made, size_t bytes) { return make((void **)made, bytes); }
CUresult cuMemFree(CUdeviceptr begin) { return drop((void *)begin); }
CUresult cuGetErrorString(CUresult code, const char **text) {
    *text = code == CUDA_ERROR_OUT_OF_MEMORY ? "out of memory" : NULL;
    return *text ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

#endif
