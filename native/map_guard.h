// What a process says when a file that it has mapped is cut short, or its disk is full: the system answers a look at a
// page that is not there with SIGBUS, which nobody would understand. A handler that knows the maps writes one line and
// ends the process: there is nothing to go on with, and no thread can be asked to stop.
#pragma once

#include <cstddef>

namespace dllama {

// From now on a fault within the map writes `line` to standard error and ends the process with exit code 1. A slot to be
// given back before the map goes; -1 where there is none left, and faults of that map are the system's again.
int guard_map(const void* start, size_t bytes, const char* line, size_t line_bytes);
void release_map(int slot);

}  // namespace dllama
