# For which GPUs the CUDA kernels are compiled. Also a script: see tests/test_build.py.

# The oldest architecture whose kernels are tried, and those that ON compiles for: 8.6 and 8.9 run the
# code of 8.0.
set(MERGESAFE_OLDEST_ARCHITECTURE 80)
set(MERGESAFE_ALL_ARCHITECTURES 80 90 100 120)

# Compute capabilities of the GPUs of this machine as numbers such as 90, by its driver; maybe none.
function(mergesafe_gpus result)
  set(found "")
  find_program(MERGESAFE_NVIDIA_SMI nvidia-smi)
  mark_as_advanced(MERGESAFE_NVIDIA_SMI)
  if(MERGESAFE_NVIDIA_SMI)
    execute_process(
      COMMAND ${MERGESAFE_NVIDIA_SMI} --query-gpu=compute_cap --format=csv,noheader
      OUTPUT_VARIABLE printed ERROR_QUIET TIMEOUT 30)
    # Words of an error hold no line of that form.
    string(REGEX MATCHALL "(^|\n) *[0-9]+\\.[0-9]" lines "${printed}")
    foreach(line ${lines})
      string(REGEX REPLACE "[^0-9]" "" number "${line}")
      list(APPEND found ${number})
    endforeach()
    list(REMOVE_DUPLICATES found)
  endif()
  set(${result} "${found}" PARENT_SCOPE)
endfunction()

# CMAKE_CUDA_ARCHITECTURES for `mode` (AUTO or ON), empty where no kernels are to be compiled.
#
# ON: machine code for all architectures that this nvcc knows, and PTX of the newest, from which drivers
# compile for those that come later. AUTO: machine code for the GPUs of this machine; what nvcc does not
# know yet takes PTX. `known`: what `nvcc --list-gpu-code` prints.
function(mergesafe_cuda_architectures mode known gpus result)
  set(chosen "")
  if(mode STREQUAL "ON")
    set(gpus ${MERGESAFE_ALL_ARCHITECTURES})
  endif()
  set(newest "")
  foreach(architecture ${MERGESAFE_ALL_ARCHITECTURES})
    if(known MATCHES "sm_${architecture}(\n|$)")
      set(newest ${architecture})
    endif()
  endforeach()
  set(needs_ptx ${mode})
  foreach(gpu ${gpus})
    if(known MATCHES "sm_${gpu}(\n|$)" AND gpu GREATER_EQUAL MERGESAFE_OLDEST_ARCHITECTURE)
      list(APPEND chosen ${gpu}-real)
    elseif(gpu GREATER MERGESAFE_OLDEST_ARCHITECTURE AND newest AND gpu GREATER newest)
      set(needs_ptx ON)
    endif()
  endforeach()
  if(needs_ptx STREQUAL "ON" AND newest)
    list(APPEND chosen ${newest}-virtual)
  endif()
  set(${result} "${chosen}" PARENT_SCOPE)
endfunction()

if(CMAKE_SCRIPT_MODE_FILE STREQUAL CMAKE_CURRENT_LIST_FILE)
  mergesafe_gpus(gpus)
  mergesafe_cuda_architectures("${MODE}" "${KNOWN}" "${gpus}" chosen)
  message("gpus=${gpus} chosen=${chosen}")
endif()
