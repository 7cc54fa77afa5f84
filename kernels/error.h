// How the codes of three libraries share one integer: CUDA's as they are, cuBLAS's and cuSOLVER's from these numbers on.
#ifndef SURGEON_ERROR_H
#define SURGEON_ERROR_H

enum { blasCodes = 10000, solverCodes = 20000 };

// blasCode and solverCode are 0 for success.
inline int blasCode(int status) { return status == 0 ? 0 : blasCodes + status; }
inline int solverCode(int status) { return status == 0 ? 0 : solverCodes + status; }

#endif
