/* The CUDA driver, looked up when the program starts instead of when it is linked: a machine without a driver, and a container
 * without a GPU, can still run everything that needs none, and say what is missing.
 *
 * gorgonia.org/cu calls cuInit before main and ends the process where that fails. So cuInit does nothing here and succeeds;
 * surgeon_driver_problem makes the real call, when somebody asks for a GPU, and tells how it went. Package cgo asks before it
 * does anything else. */
#include "driver.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "../kernels.h"

extern void *surgeon_driver_table[];
extern const char *surgeon_driver_names[];

static char problem[256];
static int (*init)(unsigned);
static int (*errorName)(int, const char **);

/* CUDA_ERROR_NOT_INITIALIZED, for every function that the driver lacks. */
static int unavailable(void) { return 3; }

static int initLater(unsigned flags) {
	(void)flags;
	return 0;
}

static const char *nameOf(int code) {
	const char *name = NULL;
	return errorName != NULL && errorName(code, &name) == 0 && name != NULL ? name : "an unknown error";
}

/* Runs when the program is loaded, before Go does: the table must be full by then. */
__attribute__((constructor)) static void bind(void) {
	const char *missing = surgeon_driver_open();
	if (missing != NULL)
		snprintf(problem, sizeof problem, "%s", missing);
	for (int i = 0; surgeon_driver_names[i] != NULL; i++) {
		const char *name = surgeon_driver_names[i];
		void *function = missing == NULL ? surgeon_driver_find(name) : NULL;
		if (strcmp(name, "cuInit") == 0) {
			init = (int (*)(unsigned))function;
			function = (void *)initLater;
		}
		if (strcmp(name, "cuGetErrorName") == 0)
			errorName = (int (*)(int, const char **))function;
		surgeon_driver_table[i] = function != NULL ? function : (void *)unavailable;
	}
}

static void initialise(void) {
	if (problem[0] != 0)
		return;
	int code = init != NULL ? init(0) : 3;
	if (code != 0)
		snprintf(problem, sizeof problem, "the NVIDIA driver cannot be used: %s (%d)", nameOf(code), code);
}

const char *surgeon_driver_problem(void) {
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, initialise);
	return problem[0] != 0 ? problem : NULL;
}
