// What Python holds beside a mapped file: `MapGuard`, described in formats/guarded_map.py.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <string>

#include "map_guard.h"

namespace nb = nanobind;

namespace dllama {
namespace {

class MapGuard {
public:
    // Keeps the map's place and not the map, which keeps this.
    MapGuard(nb::handle map, const std::string& line) {
        Py_buffer view;
        if (PyObject_GetBuffer(map.ptr(), &view, PyBUF_SIMPLE) != 0) throw nb::python_error();
        const std::string whole = line + "\n";
        slot_ = guard_map(view.buf, size_t(view.len), whole.data(), whole.size());
        PyBuffer_Release(&view);
    }
    ~MapGuard() { release_map(slot_); }
    MapGuard(const MapGuard&) = delete;
    MapGuard& operator=(const MapGuard&) = delete;

private:
    int slot_;
};

}  // namespace

void define_maps(nb::module_& m) {
    nb::class_<MapGuard>(m, "MapGuard").def(nb::init<nb::handle, const std::string&>(), nb::arg("map"), nb::arg("line"));
}

}  // namespace dllama
