/* Stands for libcuda and libamdhip64: it notes what it is asked to launch, parameter by parameter. */
#include <stdio.h>
#include <string.h>

typedef void *handle;

static int sizes[64], parameters, failing;
static char said[8192];

void stub_expect(int count, const int *bytes, int fail) {
    parameters = count;
    memcpy(sizes, bytes, count * sizeof(int));
    failing = fail;
    said[0] = 0;
}

const char *stub_said(void) { return said; }

static void say(const char *text) { strncat(said, text, sizeof said - strlen(said) - 1); }

static int load(handle *module, const char *image) {
    char text[200];
    snprintf(text, sizeof text, "load %02x%02x%02x%02x\n", image[0] & 255, image[1] & 255, image[2] & 255, image[3] & 255);
    say(text);
    *module = (handle)0x10;
    return failing == 1 ? 200 : 0;
}

static int find(handle *function, handle module, const char *name) {
    char text[300];
    snprintf(text, sizeof text, "find %s in %p\n", name, module);
    say(text);
    *function = (handle)0x20;
    return 0;
}

static int launch(handle f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                  handle stream, void **params, void **extra) {
    char text[300];
    snprintf(text, sizeof text, "launch %p grid %u %u %u block %u %u %u shared %u stream %p extra %p\n", f, gx, gy, gz, bx, by,
             bz, shared, stream, (void *)extra);
    say(text);
    for (int n = 0; n < parameters; n++) {
        long long value = 0;
        memcpy(&value, params[n], sizes[n]);
        snprintf(text, sizeof text, "parameter %lld\n", value);
        say(text);
    }
    return failing == 2 ? 700 : 0;
}

static __thread handle context;

int cuCtxGetCurrent(handle *found) { return *found = context, 0; }
int cuDeviceGet(int *device, int index) { return *device = 7 + index, 0; }
int cuDevicePrimaryCtxRetain(handle *found, int device) {
    char text[100];
    snprintf(text, sizeof text, "context of %d\n", device);
    say(text);
    return *found = (handle)0x30, 0;
}
int cuCtxSetCurrent(handle new) { return context = new, 0; }

int cuModuleLoadData(handle *module, const void *image) { return load(module, image); }
int cuModuleGetFunction(handle *f, handle module, const char *name) { return find(f, module, name); }
int cuFuncSetAttribute(handle f, int attribute, int value) {
    char text[100];
    snprintf(text, sizeof text, "set %p %d %d\n", f, attribute, value);
    say(text);
    return 0;
}
int cuLaunchKernel(handle f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                   handle stream, void **params, void **extra) {
    return launch(f, gx, gy, gz, bx, by, bz, shared, stream, params, extra);
}
int hipModuleLoadData(handle *module, const void *image) { return load(module, image); }
int hipModuleGetFunction(handle *f, handle module, const char *name) { return find(f, module, name); }
int hipModuleLaunchKernel(handle f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                          unsigned shared, handle stream, void **params, void **extra) {
    return launch(f, gx, gy, gz, bx, by, bz, shared, stream, params, extra);
}
