// Nothing yet: see the next change.
#include "attention.cuh"

bool tensorFits(int, const Attend &, const void *const *, int) { return false; }
int attentionTensor(Attend, const void *, const void *, const void *, void *, float *, void *) { return (int)cudaErrorInvalidValue; }
int attentionBackwardTensor(Attend, const void *, const void *, const void *, const void *, Statistics<float>, void *, void *, void *, void *) { return (int)cudaErrorInvalidValue; }
