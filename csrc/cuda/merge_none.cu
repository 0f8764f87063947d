// merge_task_vectors without election.
#include "cuda/merge.cuh"

namespace mergesafe::cuda {

void merge_none(const Batch& batch, const MergeCall& call, bool random, Stream stream) {
  launch_merge<Elect::kNone>(batch, call, random, stream);
}

}  // namespace mergesafe::cuda
