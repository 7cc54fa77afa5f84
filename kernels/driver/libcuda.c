/* The driver of the machine. */
#include <dlfcn.h>
#include <stddef.h>

#include "driver.h"

static void *library;

const char *surgeon_driver_open(void) {
	library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
	return library != NULL ? NULL : "there is no NVIDIA driver on this machine (libcuda.so.1 is not found; in a container, start it with --gpus all)";
}

void *surgeon_driver_find(const char *name) { return dlsym(library, name); }
