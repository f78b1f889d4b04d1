// Runs the kernels on this machine: block after block, every thread of a block a fiber with a
// stack of its own, all on the thread that called. A fiber runs until it must wait for others.
// When none can go on and not all have ended, threads have diverged: the launch ends with a
// message that says who waits where.
//
// To let mistakes show, shared memory is filled with 0xff before each block, copies to shared
// memory take effect only when they are waited for, and `order` shuffles blocks and threads: 0 is
// their own order; odd ones shuffle, but let each thread that can go on do so before any does again;
// of the other even ones, a warp goes on as long as it can while the others stand still.
#include "emulation.h"

#include <csignal>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

uint3 threadIdx, blockIdx, blockDim, gridDim;

extern "C" {
extern emulation::Kernel __start_gapura_kernels[] __attribute__((visibility("hidden"), weak));
extern emulation::Kernel __stop_gapura_kernels[] __attribute__((visibility("hidden"), weak));
extern unsigned char __start_gapura_shared[] __attribute__((visibility("hidden"), weak));
extern unsigned char __stop_gapura_shared[] __attribute__((visibility("hidden"), weak));
}

namespace {

constexpr size_t STACK_BYTES = 128 << 10;
constexpr unsigned WARP = 32;
constexpr unsigned MAX_WARPS = 32;

// ---- Contexts: what a fiber goes on with -------------------------------------------------------

[[noreturn]] void fiber_main();

#if defined(__x86_64__)
extern "C" void gapura_switch(void** save, void* load) __attribute__((visibility("hidden")));
// The registers that a function must preserve, on the stack that is left; then the other's.
asm(R"(
.text
.hidden gapura_switch
.globl gapura_switch
.type gapura_switch, @function
gapura_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size gapura_switch, . - gapura_switch
)");

struct Context {
  void* stack_pointer;

  void start(unsigned char* stack, size_t bytes) {
    // Six registers, the address to return to, and a word that aligns the stack as after a call.
    auto* top = reinterpret_cast<uintptr_t*>(stack + bytes);
    top[-1] = 0;
    top[-2] = reinterpret_cast<uintptr_t>(fiber_main);
    for (int i = 3; i <= 8; i++) top[-i] = 0;
    stack_pointer = top - 8;
  }
  void switch_to(Context& other) { gapura_switch(&stack_pointer, other.stack_pointer); }
};
#else
struct Context {
  ucontext_t context;

  void start(unsigned char* stack, size_t bytes) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = bytes;
    context.uc_link = nullptr;
    makecontext(&context, fiber_main, 0);
  }
  void switch_to(Context& other) { swapcontext(&context, &other.context); }
};
#endif

// A stack for every fiber, with a page below it that nobody may touch.
class Stacks {
 public:
  ~Stacks() { release(); }

  bool reserve(unsigned count) {
    if (count <= count_) return true;
    release();
    void* memory = mmap(nullptr, count * STACK_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return false;
    start_ = static_cast<unsigned char*>(memory);
    count_ = count;
    size_t page = sysconf(_SC_PAGESIZE);
    for (unsigned i = 0; i < count; i++) mprotect(of(i), page, PROT_NONE);
    return true;
  }

  unsigned char* of(unsigned fiber) const { return start_ + fiber * STACK_BYTES; }

 private:
  void release() {
    if (count_ > 0) munmap(start_, count_ * STACK_BYTES);
    count_ = 0;
  }

  unsigned char* start_ = nullptr;
  unsigned count_ = 0;
};

// ---- The state of a launch ---------------------------------------------------------------------

struct Copy {
  void* to;
  const void* from;
  unsigned bytes;
};

enum class State { READY, AT_WARP, AT_BLOCK, ENDED };

struct Fiber {
  Context context;
  State state;
  // Of a meeting.
  const char* what;
  unsigned mask;
  emulation::Resolve resolve;
  void* mine;
  bool predicate;
  int count;
  // Groups of copies, the newest, still open one last.
  std::vector<std::vector<Copy>> copies;
};

std::mutex one_launch;
std::vector<Fiber> fibers;
// The fibers that can go on: of this round, from `place` on, and of the next one.
std::vector<unsigned> round_now, round_next;
size_t place;
// Or by warps, where one goes on as long as it can.
std::vector<unsigned> ready[MAX_WARPS];
unsigned favourite;
unsigned order;
Stacks stacks;
unsigned num_threads, num_ended, num_at_block;
unsigned current;
uint64_t shuffle_state;
Context scheduler;
const emulation::Kernel* kernel;
const void* kernel_params;
std::vector<unsigned char> dynamic_memory;
unsigned char* dynamic_start;
char failure[480];

unsigned random_below(unsigned bound) {
  shuffle_state ^= shuffle_state << 13;
  shuffle_state ^= shuffle_state >> 7;
  shuffle_state ^= shuffle_state << 17;
  return static_cast<unsigned>((shuffle_state >> 16) % bound);
}

void shuffle(std::vector<unsigned>& values) {
  for (unsigned i = values.size(); i > 1; i--) std::swap(values[i - 1], values[random_below(i)]);
}

void leave() { fibers[current].context.switch_to(scheduler); }

bool favours_warps() { return order != 0 && order % 2 == 0; }

void wake(unsigned fiber) {
  fibers[fiber].state = State::READY;
  (favours_warps() ? ready[fiber / WARP] : round_next).push_back(fiber);
}

// Chooses who goes on; false if nobody can.
bool choose(unsigned& fiber) {
  if (favours_warps()) {
    unsigned warps = (num_threads + WARP - 1) / WARP;
    if (ready[favourite].empty()) favourite = random_below(warps);
    for (unsigned i = 0; i < warps && ready[favourite].empty(); i++) favourite = (favourite + 1) % warps;
    auto& lanes = ready[favourite];
    if (lanes.empty()) return false;
    std::swap(lanes[random_below(lanes.size())], lanes.back());
    fiber = lanes.back();
    lanes.pop_back();
    return true;
  }
  if (place == round_now.size()) {
    round_now.swap(round_next);
    round_next.clear();
    place = 0;
    if (order != 0) shuffle(round_now);
  }
  if (place == round_now.size()) return false;
  fiber = round_now[place++];
  return true;
}

[[noreturn]] void fiber_main() {
  kernel->run(kernel_params);
  if (!fibers[current].copies.empty()) {
    emulation::fail("thread %u ends while copies are under way", current);
  }
  fibers[current].state = State::ENDED;
  num_ended++;
  leave();
  abort();
}

// Says which threads wait for which.
void describe_divergence() {
  for (unsigned i = 0; i < num_threads; i++) {
    const Fiber& waiting = fibers[i];
    if (waiting.state != State::AT_WARP && waiting.state != State::AT_BLOCK) continue;
    unsigned first = waiting.state == State::AT_WARP ? i / WARP * WARP : 0;
    unsigned last = waiting.state == State::AT_WARP ? first + WARP : num_threads;
    for (unsigned j = first; j < last; j++) {
      bool named = waiting.state == State::AT_BLOCK || (waiting.mask >> (j - first) & 1) != 0;
      if (!named) continue;
      if (j >= num_threads || fibers[j].state == State::ENDED) {
        snprintf(failure, sizeof(failure), "threads diverge: thread %u waits at %s for thread %u, which %s", i,
                 waiting.what, j, j >= num_threads ? "does not exist" : "has ended");
        return;
      }
      const Fiber& other = fibers[j];
      if (other.state != waiting.state || other.resolve != waiting.resolve || other.mask != waiting.mask) {
        snprintf(failure, sizeof(failure),
                 "threads diverge: thread %u waits at %s (mask %#x) for thread %u, which waits at %s (mask %#x)", i,
                 waiting.what, waiting.mask, j, other.what, other.mask);
        return;
      }
    }
  }
  snprintf(failure, sizeof(failure), "threads diverge");
}

void run_block() {
  if (__start_gapura_shared != nullptr) {
    memset(__start_gapura_shared, 0xff, __stop_gapura_shared - __start_gapura_shared);
  }
  std::fill(dynamic_memory.begin(), dynamic_memory.end(), 0xff);
  num_ended = num_at_block = 0;
  round_now.clear();
  round_next.clear();
  for (auto& lanes : ready) lanes.clear();
  place = favourite = 0;
  for (unsigned i = 0; i < num_threads; i++) {
    fibers[i].context.start(stacks.of(i), STACK_BYTES);
    fibers[i].copies.clear();
    wake(i);
  }
  while (failure[0] == 0 && choose(current)) {
    threadIdx = {current, 0, 0};
    scheduler.switch_to(fibers[current].context);
  }
  if (failure[0] == 0 && num_ended < num_threads) describe_divergence();
}

// Says which kernel it was, then lets the signal do what it does.
void on_fault(int signal, siginfo_t* info, void*) {
  char text[256];
  int length = snprintf(text, sizeof(text), "emulation: kernel %s, block %u,%u,%u, thread %u: bad access at %p\n",
                        kernel == nullptr ? "(none)" : kernel->name, blockIdx.x, blockIdx.y, blockIdx.z, current,
                        info->si_addr);
  if (write(2, text, length) < 0) abort();
  ::signal(signal, SIG_DFL);
}

// Catches bad accesses, also of a fiber that is out of stack, while a launch runs.
class FaultHandler {
 public:
  FaultHandler() : stack_(64 << 10) {
    stack_t stack = {};
    stack.ss_sp = stack_.data();
    stack.ss_size = stack_.size();
    sigaltstack(&stack, &old_stack_);
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, &old_segv_);
    sigaction(SIGBUS, &action, &old_bus_);
  }
  ~FaultHandler() {
    sigaction(SIGSEGV, &old_segv_, nullptr);
    sigaction(SIGBUS, &old_bus_, nullptr);
    sigaltstack(&old_stack_, nullptr);
  }

 private:
  std::vector<unsigned char> stack_;
  stack_t old_stack_;
  struct sigaction old_segv_, old_bus_;
};

}  // namespace

namespace emulation {

void fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(failure, sizeof(failure), format, arguments);
  va_end(arguments);
  if (length >= 0 && unsigned(length) < sizeof(failure)) {
    snprintf(failure + length, sizeof(failure) - length, " (block %u,%u,%u, thread %u)", blockIdx.x, blockIdx.y,
             blockIdx.z, current);
  }
  // The scheduler ends the launch: this fiber never goes on.
  leave();
  abort();
}

unsigned lane() { return current % WARP; }

unsigned char* dynamic_shared() { return dynamic_start; }

void meet_warp(unsigned mask, const char* what, void* mine, Resolve resolve) {
  unsigned first = current / WARP * WARP;
  if ((mask >> lane() & 1) == 0) fail("%s: the mask %#x leaves out lane %u, which calls it", what, mask, lane());
  Fiber& self = fibers[current];
  self.what = what;
  self.mask = mask;
  self.mine = mine;
  self.resolve = resolve;
  self.state = State::AT_WARP;
  void* lanes[WARP] = {};
  bool all_here = true;
  // From the last lane on, which is most likely the one that is missing.
  for (unsigned i = WARP; i-- > 0 && all_here;) {
    if ((mask >> i & 1) == 0) continue;
    all_here = first + i < num_threads;
    if (!all_here) break;
    const Fiber& other = fibers[first + i];
    all_here = other.state == State::AT_WARP && other.mask == mask && other.resolve == resolve;
    lanes[i] = other.mine;
  }
  if (all_here) {
    resolve(lanes, mask);
    for (unsigned i = 0; i < WARP; i++) {
      if ((mask >> i & 1) != 0) wake(first + i);
    }
  }
  leave();
}

int meet_block(const char* what, bool predicate) {
  Fiber& self = fibers[current];
  self.what = what;
  self.mask = 0;
  self.resolve = nullptr;
  self.predicate = predicate;
  self.state = State::AT_BLOCK;
  if (++num_at_block == num_threads) {
    num_at_block = 0;
    int count = 0;
    for (unsigned i = 0; i < num_threads; i++) count += fibers[i].predicate;
    for (unsigned i = 0; i < num_threads; i++) {
      fibers[i].count = count;
      wake(i);
    }
  }
  leave();
  return self.count;
}

unsigned vote(const char* what, unsigned mask, bool holds) {
  Vote mine{holds, 0};
  meet_warp(mask, what, &mine, [](void* const* lanes, unsigned mask) {
    unsigned result = 0;
    for (unsigned i = 0; i < WARP; i++) {
      if ((mask >> i & 1) != 0) result |= unsigned(static_cast<Vote*>(lanes[i])->holds) << i;
    }
    for (unsigned i = 0; i < WARP; i++) {
      if ((mask >> i & 1) != 0) static_cast<Vote*>(lanes[i])->result = result;
    }
  });
  return mine.result;
}

void copy_later(void* to, const void* from, unsigned bytes) {
  auto& groups = fibers[current].copies;
  if (groups.empty()) groups.emplace_back();
  groups.back().push_back({to, from, bytes});
}

void commit_copies() {
  auto& groups = fibers[current].copies;
  if (groups.empty()) groups.emplace_back();
  groups.emplace_back();
}

void wait_copies(unsigned groups_under_way) {
  auto& groups = fibers[current].copies;
  // The last group is open: nothing waits for it.
  while (groups.size() > groups_under_way + 1) {
    for (const Copy& copy : groups.front()) {
      memcpy(copy.to, copy.from, copy.bytes);
      memset(static_cast<unsigned char*>(copy.to) + copy.bytes, 0, 16 - copy.bytes);
    }
    groups.erase(groups.begin());
  }
  if (groups.size() == 1 && groups.front().empty()) groups.clear();
}

}  // namespace emulation

// Runs a kernel. Not 0 and a message if there is none of that name, if its parameter block has
// another size (2), or if it fails (3).
extern "C" __attribute__((visibility("default"))) int gapura_launch(
    const char* name, const unsigned* grid, unsigned block, unsigned shared_bytes, const void* params,
    unsigned long long param_bytes, unsigned thread_order, char* message, unsigned long long message_bytes) {
  std::lock_guard<std::mutex> lock(one_launch);
  order = thread_order;
  kernel = nullptr;
  for (auto* entry = __start_gapura_kernels; entry < __stop_gapura_kernels; entry++) {
    if (strcmp(entry->name, name) == 0) kernel = entry;
  }
  if (kernel == nullptr) {
    snprintf(message, message_bytes, "there is no such kernel");
    return 1;
  }
  if (kernel->param_bytes != param_bytes) {
    snprintf(message, message_bytes, "its parameter block has %llu bytes, not %llu", kernel->param_bytes, param_bytes);
    return 2;
  }
  if (block == 0 || block > kernel->max_threads || block > WARP * MAX_WARPS || grid[1] > 65535 || grid[2] > 65535) {
    snprintf(message, message_bytes, "a grid of %u,%u,%u blocks of %u threads, where blocks have at most %llu", grid[0],
             grid[1], grid[2], block, kernel->max_threads);
    return 1;
  }
  if (!stacks.reserve(block)) {
    snprintf(message, message_bytes, "no memory for the stacks of %u threads", block);
    return 1;
  }
  // 16 bytes more: what runs off the end by one access finds 0xff.
  dynamic_memory.resize(shared_bytes + 32);
  dynamic_start = dynamic_memory.data() + (-reinterpret_cast<uintptr_t>(dynamic_memory.data()) & 15);
  if (fibers.size() < block) fibers.resize(block);
  num_threads = block;
  blockDim = {block, 1, 1};
  gridDim = {grid[0], grid[1], grid[2]};
  failure[0] = 0;
  shuffle_state = 0x9e3779b97f4a7c15ull * (order + 1ull);
  // A parameter block of a GPU is aligned, whatever the caller's is.
  std::vector<uint4> aligned((param_bytes + 15) / 16);
  memcpy(aligned.data(), params, param_bytes);
  kernel_params = aligned.data();

  const FaultHandler handler;
  unsigned num_blocks = grid[0] * grid[1] * grid[2];
  std::vector<unsigned> blocks(num_blocks);
  for (unsigned i = 0; i < num_blocks; i++) blocks[i] = i;
  if (order != 0) shuffle(blocks);
  for (unsigned i : blocks) {
    blockIdx = {i % grid[0], i / grid[0] % grid[1], i / grid[0] / grid[1]};
    run_block();
    if (failure[0] != 0) {
      snprintf(message, message_bytes, "%s", failure);
      return 3;
    }
  }
  return 0;
}
