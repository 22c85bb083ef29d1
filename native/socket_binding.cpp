// What Python calls to move bytes over sockets: `SocketMesh`, described in fabric/tcp.py.
#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <mutex>
#include <vector>

#include "socket_exchange.h"

namespace nb = nanobind;

namespace dllama {
namespace {

// Buffers of Python objects, held for as long as an exchange needs them. Filled and emptied under the GIL.
class HeldBuffers {
public:
    HeldBuffers() = default;
    HeldBuffers(const HeldBuffers&) = delete;
    HeldBuffers& operator=(const HeldBuffers&) = delete;
    ~HeldBuffers() { release(); }

    const Py_buffer& hold(nb::handle object, int flags) {
        Py_buffer view;
        if (PyObject_GetBuffer(object.ptr(), &view, flags) != 0) throw nb::python_error();
        views_.push_back(view);
        return views_.back();
    }
    void release() {
        for (Py_buffer& view : views_) PyBuffer_Release(&view);
        views_.clear();
    }

private:
    std::vector<Py_buffer> views_;
};

class SocketMesh {
public:
    explicit SocketMesh(const std::vector<int>& fds) : exchange_(fds.size()) {
        for (size_t i = 0; i < fds.size(); i++) exchange_.links[i].fd = fds[i];
    }

    nb::object exchange(nb::sequence sends, nb::sequence receives, double spin_s, double patience_s) {
        forget();
        try {
            load(sends, PyBUF_SIMPLE);
            load(receives, PyBUF_WRITABLE);
        } catch (...) {
            forget();
            throw;
        }
        return go_on(spin_s, patience_s);
    }

    nb::object go_on(double spin_s, double patience_s) {
        ExchangeState state;
        {
            const nb::gil_scoped_release release;
            const std::lock_guard<std::mutex> lock(mutex_);
            state = closed_ ? ExchangeState{ExchangeState::ended, 0, 0} : exchange_.run(spin_s, patience_s);
        }
        if (state.kind == ExchangeState::idle) return nb::bool_(false);
        if (state.kind == ExchangeState::done) {
            buffers_.release();
            return nb::bool_(true);
        }
        return nb::make_tuple(state.link, state.error);
    }

    // Returns once no thread uses the sockets, which may then be closed; they have to be shut down before. Lets go of
    // the buffers of an exchange that was cut off.
    void close() {
        {
            const nb::gil_scoped_release release;
            const std::lock_guard<std::mutex> lock(mutex_);
            closed_ = true;
        }
        forget();
    }

    nb::tuple outstanding(int link) const {
        const SocketLink& of = exchange_.links.at(size_t(link));
        return nb::make_tuple(of.to_send(), of.to_receive());
    }
    nb::list counted(uint64_t SocketLink::*counter) const {
        nb::list values;
        for (const SocketLink& link : exchange_.links) values.append(link.*counter);
        return values;
    }
    const SocketExchange& state() const { return exchange_; }

private:
    void load(nb::sequence buffers, int flags) {
        for (nb::handle item : buffers) {
            const auto pair = nb::cast<nb::tuple>(item);
            const int link = nb::cast<int>(pair[0]);
            if (link < 0 || size_t(link) >= exchange_.links.size() || exchange_.links[size_t(link)].fd < 0)
                throw nb::key_error(("no connection to rank " + std::to_string(link)).c_str());
            const Py_buffer& view = buffers_.hold(pair[1], flags);
            exchange_.load(link, view.buf, size_t(view.len), flags == PyBUF_SIMPLE);
        }
    }
    void forget() {
        exchange_.clear();
        buffers_.release();
    }

    SocketExchange exchange_;
    HeldBuffers buffers_;
    std::mutex mutex_;
    bool closed_ = false;
};

}  // namespace

void define_sockets(nb::module_& m) {
    nb::class_<SocketMesh>(m, "SocketMesh")
        .def(nb::init<const std::vector<int>&>(), nb::arg("fds"))
        .def("exchange", &SocketMesh::exchange, nb::arg("sends"), nb::arg("receives"), nb::arg("spin_s"),
             nb::arg("patience_s"))
        .def("go_on", &SocketMesh::go_on, nb::arg("spin_s"), nb::arg("patience_s"))
        .def("close", &SocketMesh::close)
        .def("outstanding", &SocketMesh::outstanding, nb::arg("link"))
        .def_prop_ro("sent_bytes", [](const SocketMesh& s) { return s.counted(&SocketLink::sent); })
        .def_prop_ro("received_bytes", [](const SocketMesh& s) { return s.counted(&SocketLink::received); })
        .def_prop_ro("idle_s", [](const SocketMesh& s) { return s.state().idle_s(); })
        .def_prop_ro("wait_s", [](const SocketMesh& s) { return s.state().wait_s; })
        .def_prop_ro("wire_s", [](const SocketMesh& s) { return s.state().wire_s; });
}

}  // namespace dllama
