/* Where driver.c finds the driver: libcuda.c, or emu/driver.cpp for the emulated device. */
#ifndef SURGEON_DRIVER_H
#define SURGEON_DRIVER_H
#ifdef __cplusplus
extern "C" {
#endif
const char *surgeon_driver_open(void);          /* NULL, or what is missing */
void *surgeon_driver_find(const char *name);    /* a function of the driver, or NULL */
#ifdef __cplusplus
}
#endif
#endif
