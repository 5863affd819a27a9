// The kernels for one instruction set: included by one source file per set, which defines KAN_NAME,
// KAN_VECTOR_BYTES and KAN_REGISTERS.
#pragma once

#include "cpu/curves/forward.h"
#include "cpu/curves/gradients.h"
#include "cpu/tiles/columns.h"
#include "cpu/tiles/forward.h"

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

template <class S>
void forward(const Layer& layer, const Operands& op) {
  if constexpr (kLookup) {
    if (Curves<S>::suit(layer, op)) return Curves<S>(layer, op).run();
  }
  Forward<S>(layer, op).run();
}

template <class S>
void backward(const Layer& layer, const Operands& op) {
  if constexpr (kLookup) {
    if (CurveGradients<S>::suit(layer, op)) return CurveGradients<S>(layer, op).run();
  }
  Columns<S>(Mode::backward, layer, op).run();
}

void forward_of(Type type, const Layer& layer, const Operands& op) {
  with_type(type, [&](auto s) { forward<decltype(s)>(layer, op); });
}

void backward_of(Type type, const Layer& layer, const Operands& op) {
  with_type(type, [&](auto s) { backward<decltype(s)>(layer, op); });
}

template <Mode mode>
void magnitudes(Type type, const Layer& layer, const Operands& op) {
  with_type(type, [&](auto s) { Columns<decltype(s)>(mode, layer, op).run(); });
}

}  // namespace

#define KAN_JOIN(a, b) a##b
#define KAN_SYMBOL(name) KAN_JOIN(kernels_, name)
#define KAN_STRING(name) #name
#define KAN_QUOTE(name) KAN_STRING(name)

extern const Kernels KAN_SYMBOL(KAN_NAME);
const Kernels KAN_SYMBOL(KAN_NAME) = {KAN_QUOTE(KAN_NAME), forward_of, backward_of, magnitudes<Mode::magnitude>,
                                      magnitudes<Mode::magnitude_backward>};

}  // namespace kan
