// The settings of the emulation, for Python.
#include "emulation.h"

extern "C" void kan_emulation_configure(unsigned seed, int processors) { emulation::settings = {seed, processors}; }
