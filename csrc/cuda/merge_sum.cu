// merge_task_vectors that elects the sign of the sum.
#include "cuda/merge.cuh"

namespace mergesafe::cuda {

void merge_sum(const Batch& batch, const MergeCall& call, Kind kind, Stream stream) {
  launch_merge<Elect::kSum>(batch, call, kind, stream);
}

}  // namespace mergesafe::cuda
