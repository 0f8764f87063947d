// merge_task_vectors without election.
#include "cuda/merge.cuh"

namespace mergesafe::cuda {

void merge_none(const Batch& batch, const MergeCall& call, Kind kind, Stream stream) {
  launch_merge<Elect::kNone>(batch, call, kind, stream);
}

}  // namespace mergesafe::cuda
