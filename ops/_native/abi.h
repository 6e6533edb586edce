// What every kernel's header needs: exported C functions and the codes of data types.
#pragma once

#include <stdint.h>

#ifdef _WIN32
#define INR_EXPORT extern "C" __declspec(dllexport)
#else
#define INR_EXPORT extern "C" __attribute__((visibility("default")))
#endif

// The values of ops/_native/library.py.
enum DataType : int64_t {
  INR_FLOAT32 = 0,
  INR_FLOAT64 = 1,
  INR_FLOAT16 = 2,
  INR_BFLOAT16 = 3,
};
