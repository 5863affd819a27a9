// The constants that decide what takes the least time: each with its meaning, its unit, and the case that shows it.
//
// They were chosen on a virtual machine with 2 cores of an Intel Xeon, family 6 model 207 (48 KiB first-level and 2 MiB
// second-level data cache per core, AVX-512; docs/cpu_kernels.md), in November 2026. The single runs were not kept.
// `python -m bench --no-peers --cpu-time CASE` shows the effect of a constant, CASE being named with it. None of them
// changes the meaning of a result; those marked "sums" change the order of additions and so the last bits. Constants
// that were chosen for accuracy stand with the code that needs them.
#pragma once

#include <cstdint>

namespace kan {
namespace tuning {

// Sizes of memory, in bytes.

constexpr int64_t kCacheLine = 64;
// The sums of a tile of samples and of outputs take this share of the first-level cache. 1024x256x256
constexpr int64_t kTileBytes = 32768;
// The coefficients of a block of features, in the backward pass: half of the second-level cache. 256x1024x1024
constexpr int64_t kPanelBytes = 1 << 20;
// The plans of a stretch of samples, in the backward pass: a quarter of the second-level cache. 8192x64x64
constexpr int64_t kStretchBytes = 1 << 19;
// The sums of a task of the forward pass: a quarter of the second-level cache. 1024x256x256
constexpr int64_t kForwardSumBytes = 1 << 19;
// The curves of a layer with few outputs: half of the second-level cache. 1000x2x5
constexpr int64_t kCurveBytes = 1 << 20;
// Results above this size are written past the caches, which saves reading what is overwritten. 256x1024x1024
constexpr int64_t kStreamBytes = 8 << 20;
// A workspace up to this size is kept for the next call: fresh memory took 5 to 37 % of the time of forward. 256x784x64
constexpr int64_t kKeptBytes = 64 << 20;

// Numbers of samples.

constexpr int64_t kFewestTileSamples = 64, kMostTileSamples = 512;  // in a tile, whatever kTileBytes says. 256x784x64
constexpr int64_t kMostTaskSamples = 1024;                          // in a task of the forward pass. 8192x64x64
constexpr int64_t kSmallestChunk = 2048;  // in a chunk of the batch, in the backward pass; sums. 8192x64x64

// Numbers of features and of tasks.

// Features whose plans and coefficients are made together; sums. 1024x256x256
constexpr int64_t kFeatureBlock = 16;
// In the backward pass blocks of features become larger up to this, if kBusyTasks for each thread remain. 8192x64x64
constexpr int64_t kLargestFeatureBlock = 32, kBusyTasks = 8;
// Chunks of the batch: as many as make this number of tasks where features make fewer; sums. 8192x64x64
constexpr int64_t kWantedTasks = 8;
// From this number of blocks on, threads share work on all edges of a layer with few outputs. 1000x2x5
constexpr int64_t kParallelEdgeBlocks = 4;

// The smallest problem that is worth more than one thread.

// Batch x inputs x (outputs + kOutputsOfPlan) x (rows + 1), in multiply-adds of single numbers: below this the kernel
// finishes before a second thread would have woken up. A plan takes as long as kOutputsOfPlan outputs. 1000x2x5
constexpr double kParallelWork = 2e6;
constexpr int64_t kOutputsOfPlan = 16;

// The costs of a task of the forward pass, by which `Cut` chooses: in multiply-adds of vectors. 256x784x64 and
// 1024x256x256

constexpr double kPlanSample = 12;  // a plan, for one sample and feature
constexpr double kPackRow = 12;     // packing one vector of a row of coefficients
constexpr double kIdle = 0.05;      // what every thread waits for others at the end, in tasks

// Layers with few outputs: when curves take less time than tiles. 1000x2x5

constexpr int64_t kMostCurveOutputs = 32;
// Making the curves is worth it from kCurveSamples + outputs^2 samples on.
constexpr int64_t kCurveSamples = 64;
// The coefficient gradient by sums of powers takes time for every piece and every output, where tiles take as long for
// 16 outputs as for one. They break even at outputs x (2 spans + 5) = 130: 8 outputs of 5 spans, or 3 of 19.
constexpr int64_t kMostPowerSums = 130;
// Registers that hold these sums; the others hold what is added.
constexpr int kSumRegisters = 20;

// Plans.

// Up to this many cells samples are sorted by one pass over their keys for each cell, else by counting.
// 1024x256x256-G20
constexpr int kFewCells = 32;

}  // namespace tuning
}  // namespace kan
