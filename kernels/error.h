// How the codes of the libraries share one integer: CUDA's as they are, those of cuBLAS, which are cuBLASLt's too, and of cuSOLVER from these
// numbers on, and then our own.
#ifndef SURGEON_ERROR_H
#define SURGEON_ERROR_H

enum { blasCodes = 10000, solverCodes = 20000, ownCodes = 30000 };
enum { noAlgorithm = ownCodes }; // cuBLASLt was asked for a product, and has no way to make it

// blasCode and solverCode are 0 for success.
inline int blasCode(int status) { return status == 0 ? 0 : blasCodes + status; }
inline int solverCode(int status) { return status == 0 ? 0 : solverCodes + status; }

#endif
