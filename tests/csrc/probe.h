// Faults on purpose, in builds with sanitizers alone: a run that does not report them is not
// watched by anything.
#pragma once

#include <string>

namespace mergesafe {

// `fault`: "heap" reads beyond a block, "freed" reads one that was freed, "stack" writes beyond an
// array, "overflow" exceeds an int, "shift" shifts too far, "cast" makes an int of a float beyond
// it, "aligned" reads an int at an odd address, "race" writes from two threads. Others throw.
int probe(const std::string& fault);

}  // namespace mergesafe
