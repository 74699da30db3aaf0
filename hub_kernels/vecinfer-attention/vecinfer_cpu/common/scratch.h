// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Memory for intermediate results: one arena per thread, kept between calls, aligned to 64 bytes.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>
#include <vector>

namespace vecinfer {

// Pieces are handed out until the Scratch goes out of scope. A Scratch inside another's life goes
// on behind its pieces.
class Scratch {
 public:
  Scratch() : arena_(arena()), block_(arena_.block), used_(arena_.used) {}
  ~Scratch() {
    arena_.block = block_;
    arena_.used = used_;
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  float* floats(int64_t count) { return static_cast<float*>(bytes(count * 4)); }
  int32_t* ints(int64_t count) { return static_cast<int32_t*>(bytes(count * 4)); }
  void* bytes(int64_t size) {
    // A vector more, so that whole vectors may be read and written at the end.
    const size_t needed = (static_cast<size_t>(size) + 127) / 64 * 64;
    while (arena_.block < arena_.blocks.size() &&
           arena_.used + needed > arena_.blocks[arena_.block].size) {
      ++arena_.block;
      arena_.used = 0;
    }
    if (arena_.block == arena_.blocks.size()) {
      const size_t room = needed > kBlock ? needed : kBlock;
      void* memory = std::aligned_alloc(64, room);
      if (memory == nullptr) throw std::bad_alloc();
      arena_.blocks.push_back({memory, room});
    }
    void* piece = static_cast<char*>(arena_.blocks[arena_.block].memory) + arena_.used;
    arena_.used += needed;
    return piece;
  }

 private:
  static constexpr size_t kBlock = size_t(1) << 20;
  struct Block {
    void* memory;
    size_t size;
  };
  struct Arena {
    std::vector<Block> blocks;
    size_t block = 0, used = 0;
    ~Arena() {
      for (Block& each : blocks) std::free(each.memory);
    }
  };
  static Arena& arena() {
    static thread_local Arena mine;
    return mine;
  }
  Arena& arena_;
  size_t block_, used_;
};

}  // namespace vecinfer
