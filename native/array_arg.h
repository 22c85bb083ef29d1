// Arguments from Python, checked: every error names the argument and what it should have been.
#pragma once

#include <nanobind/nanobind.h>

#include <cstring>
#include <string>

#include "kernel_table.h"

namespace dllama {

namespace nb = nanobind;

[[noreturn]] inline void wrong_value(const std::string& message) { throw nb::value_error(message.c_str()); }
[[noreturn]] inline void wrong_type(const std::string& message) { throw nb::type_error(message.c_str()); }

inline void require(bool holds, const char* name, const char* what) {
    if (!holds) wrong_value(std::string(name) + " " + what);
}

struct Element {
    const char* name;
    const char* formats;  // characters of Python's struct module
    Py_ssize_t bytes;
};
constexpr Element kFloat32{"float32", "f", 4}, kFloat16{"float16", "e", 2}, kInt32{"int32", "il", 4}, kUint8{"uint8", "B", 1},
    kInt64{"int64", "lq", 8}, kFloat64{"float64", "d", 8};

enum class Access { read, write };

// What Python calls a BoundArray: an array whose memory was looked up once, for operations that are called again and
// again. Looking it up in each call is a large part of a call's time, since weights pass through the caches in between.
class BoundArray {
public:
    explicit BoundArray(nb::handle object) {
        if (!PyObject_CheckBuffer(object.ptr())) wrong_type("array must be an array");
        const int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT;
        if (PyObject_GetBuffer(object.ptr(), &view_, flags | PyBUF_WRITABLE) == 0) return;
        PyErr_Clear();
        if (PyObject_GetBuffer(object.ptr(), &view_, flags) == 0) return;
        PyErr_Clear();
        wrong_value("array must be C-contiguous");
    }
    BoundArray(const BoundArray&) = delete;
    BoundArray& operator=(const BoundArray&) = delete;
    ~BoundArray() { PyBuffer_Release(&view_); }
    const Py_buffer& view() const { return view_; }

private:
    Py_buffer view_{};
};

// A C-contiguous array borrowed from a Python object, bound or not, for as long as this lives. Made and ended under the
// GIL.
class ArrayArg {
public:
    ArrayArg(nb::handle object, const char* name, const Element& element, int n_dims, Access access = Access::read)
        : name_(name) {
        take(object, access);
        if (!is(element)) fail_type(std::string("must be ") + element.name);
        need_dims(n_dims);
    }
    // An array of any element type; ask is() which.
    ArrayArg(nb::handle object, const char* name, int n_dims, Access access) : name_(name) {
        take(object, access);
        need_dims(n_dims);
    }
    ArrayArg(const ArrayArg&) = delete;
    ArrayArg& operator=(const ArrayArg&) = delete;
    ~ArrayArg() {
        if (view_ == &own_) PyBuffer_Release(&own_);
    }

    bool is(const Element& e) const {
        const char* format = view_->format ? view_->format : "B";
        return view_->itemsize == e.bytes && format[0] && !format[1] && std::strchr(e.formats, format[0]);
    }
    template <class T>
    T* data() const { return static_cast<T*>(view_->buf); }
    int64_t size(int dim) const { return view_->shape[dim]; }

    void need_size(int dim, int64_t wanted) const {
        if (size(dim) != wanted) fail_shape(dim, "must be ", wanted);
    }
    void need_at_least(int dim, int64_t wanted) const {
        if (size(dim) < wanted) fail_shape(dim, "must be at least ", wanted);
    }
    const char* name() const { return name_; }
    [[noreturn]] void fail_type(const std::string& what) const {
        wrong_type(std::string(name_) + " " + what + ", not of format '" + (view_->format ? view_->format : "B") + "'");
    }

private:
    void take(nb::handle object, Access access) {
        if (const BoundArray* bound; nb::try_cast(object, bound)) {
            view_ = &bound->view();
            if (access == Access::write && view_->readonly) wrong_value(std::string(name_) + " must be writable");
            return;
        }
        if (!PyObject_CheckBuffer(object.ptr())) wrong_type(std::string(name_) + " must be an array");
        const int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (access == Access::write ? PyBUF_WRITABLE : 0);
        if (PyObject_GetBuffer(object.ptr(), &own_, flags) == 0) return;
        PyErr_Clear();
        wrong_value(std::string(name_) + " must be C-contiguous" + (access == Access::write ? " and writable" : ""));
    }
    void need_dims(int n_dims) {
        if (view_->ndim == n_dims) return;
        const int got = view_->ndim;
        wrong_value(std::string(name_) + " must have " + std::to_string(n_dims) + " dimensions, not " +
                    std::to_string(got));
    }
    [[noreturn]] void fail_shape(int dim, const char* relation, int64_t wanted) const {
        wrong_value(std::string(name_) + ".shape[" + std::to_string(dim) + "] " + relation + std::to_string(wanted) +
                    ", not " + std::to_string(size(dim)));
    }

    const char* name_;
    Py_buffer own_{};
    const Py_buffer* view_ = &own_;
};

}  // namespace dllama
