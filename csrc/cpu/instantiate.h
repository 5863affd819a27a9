// The kernels for one instruction set: included by one source file per set, which defines KAN_NAME,
// KAN_VECTOR_BYTES and KAN_REGISTERS.
#pragma once

#include "columns.h"
#include "forward.h"

namespace kan {
namespace {

template <class Run>
void with_type(Type type, Run run) {
  switch (type) {
    case Type::f32:
      return run(float{});
    case Type::f64:
      return run(double{});
    case Type::f16:
      return run(Half{});
    case Type::bf16:
      return run(BFloat{});
  }
}

void forward(Type type, const Layer& layer, const Operands& op) {
  with_type(type, [&](auto s) { Forward<decltype(s)>(layer, op).run(); });
}

template <Mode mode>
void columns(Type type, const Layer& layer, const Operands& op) {
  with_type(type, [&](auto s) { Columns<decltype(s)>(mode, layer, op).run(); });
}

}  // namespace

#define KAN_JOIN(a, b) a##b
#define KAN_SYMBOL(name) KAN_JOIN(kernels_, name)
#define KAN_STRING(name) #name
#define KAN_QUOTE(name) KAN_STRING(name)

extern const Kernels KAN_SYMBOL(KAN_NAME);
const Kernels KAN_SYMBOL(KAN_NAME) = {KAN_QUOTE(KAN_NAME), forward, columns<Mode::backward>, columns<Mode::magnitude>,
                                      columns<Mode::magnitude_backward>};

}  // namespace kan
