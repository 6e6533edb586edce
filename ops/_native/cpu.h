// What the C++ kernels for CPU tensors share.
#pragma once

#include "abi.h"

#ifdef _OPENMP
#include <omp.h>
#endif
