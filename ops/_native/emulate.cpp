// Compiles up to four .cu files of an op for the CPU (see emulation.h); tests build it.
#include INR_SOURCE_0
#ifdef INR_SOURCE_1
#include INR_SOURCE_1
#endif
#ifdef INR_SOURCE_2
#include INR_SOURCE_2
#endif
#ifdef INR_SOURCE_3
#include INR_SOURCE_3
#endif
