// The structs of arguments.h as Python classes, and the numbers by which Python names types.
#include "arguments.h"

namespace py = pybind11;

namespace mergesafe {

void bind_arguments(py::module_& m) {
  const auto number = [](auto code) { return static_cast<int>(code); };
  m.attr("dtypes") =
      py::dict(py::arg("BF16") = number(DType::kBF16), py::arg("F16") = number(DType::kF16),
               py::arg("F32") = number(DType::kF32));
  m.attr("elections") =
      py::dict(py::arg("none") = number(Elect::kNone), py::arg("sum") = number(Elect::kSum),
               py::arg("count") = number(Elect::kCount));
  m.attr("norms") = py::dict(py::arg("l1") = number(Norm::kL1), py::arg("l2") = number(Norm::kL2),
                             py::arg("linf") = number(Norm::kLinf));
  py::dict fused;
  for (int i = 0; i < FusedList::kCount; ++i) {
    const int inputs = FusedList::kInputs[i];
    const py::object takes = inputs == kAnyInputs ? py::none() : py::object(py::int_(inputs));
    fused[FusedList::kNames[i]] = py::make_tuple(takes, FusedList::kCoefficients[i],
                                                 FusedList::kEach[i], FusedList::kTensors[i]);
  }
  m.attr("fused_kernels") = fused;
  // module_local: tests load a second build of this module beside the first.
  py::class_<Input>(m, "Input", py::module_local())
      .def(py::init(&make_input), py::arg("address"), py::arg("dtype"), py::arg("cast"));
  py::class_<Output>(m, "Output", py::module_local())
      .def(py::init(&make_output), py::arg("address"), py::arg("dtype"));
  py::class_<Array>(m, "Array", py::module_local())
      .def(py::init<uintptr_t, size_t>(), py::arg("address"), py::arg("values"));
  py::class_<TaskVector>(m, "TaskVector", py::module_local())
      .def(py::init(&make_vector), py::arg("input"), py::arg("weight"), py::arg("rescale"),
           py::arg("lo"), py::arg("hi"), py::arg("random"), py::arg("threshold"), py::arg("key"),
           py::arg("keep") = py::none());
}

}  // namespace mergesafe
