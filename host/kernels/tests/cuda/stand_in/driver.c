// A stand-in for libcuda.so.1 in this process's memory. It is as lazy as a driver may be: work is
// done only when somebody waits for it, in order, so whoever reuses memory too early, or does not
// wait, gets wrong bytes every time. It ends the process where a driver would go wrong silently.
//
// The one kernel that computes is soft_cap, and what it computes is x = 2 x + cap.
//
// Settings are environment variables, named where they are read. Calls and work are logged.
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int CUresult;
enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_IMAGE = 200, INVALID_CONTEXT = 201,
       NOT_FOUND = 500, ILLEGAL_ADDRESS = 700, CAPTURE_UNSUPPORTED = 900 };

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void die(const char *why) {
  fprintf(stderr, "stand-in driver: %s\n", why);
  abort();
}

#include <stdarg.h>
static void say(const char *format, ...) {
  const char *path = getenv("STAND_IN_LOG");
  FILE *file = path ? fopen(path, "a") : NULL;
  if (!file) return;
  va_list args;
  va_start(args, format);
  vfprintf(file, format, args);
  va_end(args);
  fputc('\n', file);
  fclose(file);
}

static long setting(const char *name, long otherwise) {
  const char *value = getenv(name);
  return value ? atol(value) : otherwise;
}

// STAND_IN_FAIL=function:n:code lets the n-th call of a function fail. An illegal address fails
// every call after it, as it does on a GPU.
static int broken;
static CUresult failure(const char *function) {
  static int calls;
  if (broken) return broken;
  const char *fail = getenv("STAND_IN_FAIL");
  char name[64];
  int n, code;
  if (!fail || sscanf(fail, "%63[^:]:%d:%d", name, &n, &code) != 3 || strcmp(name, function)) return OK;
  if (++calls != n) return OK;
  if (code == ILLEGAL_ADDRESS) broken = code;
  return code;
}

// The primary context, and whose it is.
static int context, retained;
static __thread void *current;

#define ENTER() \
  do { \
    CUresult status_ = failure(__func__); \
    if (status_) return status_; \
  } while (0)
#define ENTER_CONTEXT() \
  do { \
    ENTER(); \
    if (current != &context || !retained) return INVALID_CONTEXT; \
  } while (0)

// What exists.
enum { MEMORY, PINNED, EVENTS, STREAMS, MODULES, GRAPHS, EXECUTABLES, KINDS };
static long live[KINDS];

struct range {
  char *start;
  size_t bytes;
  int kind;
  struct range *next;
};
static struct range *ranges;
static size_t used;

static struct range *range_of(const void *start, size_t bytes, int kind) {
  for (struct range *range = ranges; range; range = range->next)
    if (range->kind == kind && (char *)start >= range->start &&
        (char *)start + bytes <= range->start + range->bytes)
      return range;
  return NULL;
}

static void *take(size_t bytes, int kind) {
  struct range *range = malloc(sizeof *range);
  *range = (struct range){aligned_alloc(256, (bytes + 255) / 256 * 256), bytes, kind, ranges};
  memset(range->start, 0xab, bytes);
  ranges = range;
  ++live[kind];
  return range->start;
}

static void give(void *start, int kind) {
  for (struct range **link = &ranges; *link; link = &(*link)->next) {
    struct range *range = *link;
    if (range->start != start || range->kind != kind) continue;
    *link = range->next;
    memset(range->start, 0xcd, range->bytes);
    if (kind == MEMORY) used -= range->bytes;
    free(range->start);
    free(range);
    --live[kind];
    return;
  }
  die("freed what was not allocated");
}

// Work.
struct event {
  long recorded, passed;
  double milliseconds;
};
struct function {
  char name[96];
  long shared_bytes;
};
struct work {
  enum { COPY, LAUNCH, EVENT, HOST } kind;
  char *to;
  const char *from;
  size_t bytes;
  struct function *function;
  unsigned grid[3], block, shared_bytes;
  struct { float *x; uint64_t count; float cap; uint32_t reserved; } params;
  struct event *event;
  long serial;
  void (*host)(void *);
  void *data;
  struct work *next;
};
struct list {
  struct work *first, *last;
};
static struct list queue, capture;
static int capturing;
static long serial;
static double milliseconds;

static void append(struct list *list, const struct work *work) {
  struct work *copy = malloc(sizeof *copy);
  *copy = *work;
  copy->next = NULL;
  if (list->last) list->last->next = copy; else list->first = copy;
  list->last = copy;
}

static CUresult enqueue(struct work work) {
  append(capturing ? &capture : &queue, &work);
  return OK;
}

static void run_one(void) {
  struct work *work = queue.first;
  queue.first = work->next;
  if (!queue.first) queue.last = NULL;
  switch (work->kind) {
    case COPY:
      memcpy(work->to, work->from, work->bytes);
      say("copy %zu", work->bytes);
      break;
    case LAUNCH:
      milliseconds += 1;
      say("run %s grid %u %u %u block %u shared %u", work->function->name, work->grid[0], work->grid[1],
          work->grid[2], work->block, work->shared_bytes);
      if (!strcmp(work->function->name, "soft_cap"))
        for (uint64_t i = 0; i < work->params.count; ++i)
          work->params.x[i] = 2 * work->params.x[i] + work->params.cap;
      break;
    case EVENT:
      work->event->passed = work->serial;
      work->event->milliseconds = milliseconds;
      break;
    case HOST:
      milliseconds += 1;
      work->host(work->data);
      break;
  }
  free(work);
}

static void run_all(void) {
  while (queue.first) run_one();
}

static void must_be_idle(const char *why) {
  if (queue.first && !broken) die(why);
}

CUresult cuDriverGetVersion(int *version) {
  *version = setting("STAND_IN_VERSION", 12000);
  return OK;
}

CUresult cuInit(unsigned flags) {
  (void)flags;
  return setting("STAND_IN_INIT", OK);
}

CUresult cuGetErrorString(CUresult status, const char **text) {
  switch (status) {
    case ILLEGAL_ADDRESS: *text = "an illegal memory access was encountered"; return OK;
    case INVALID_VALUE: *text = "invalid argument"; return OK;
  }
  return INVALID_VALUE;
}

CUresult cuDeviceGetCount(int *count) {
  ENTER();
  *count = setting("STAND_IN_DEVICES", 1);
  return OK;
}

CUresult cuDeviceGet(int *device, int ordinal) {
  ENTER();
  *device = ordinal;
  return OK;
}

CUresult cuDeviceGetName(char *name, int bytes, int device) {
  ENTER();
  snprintf(name, bytes, "Stand-in %d", device);
  return OK;
}

static size_t total(void) { return setting("STAND_IN_MEMORY", 1L << 30); }

CUresult cuDeviceTotalMem_v2(size_t *bytes, int device) {
  ENTER();
  (void)device;
  *bytes = total();
  return OK;
}

CUresult cuDeviceGetAttribute(int *value, int attribute, int device) {
  ENTER();
  (void)device;
  long capability = setting("STAND_IN_CAPABILITY", 90);
  switch (attribute) {
    case 16: *value = 132; return OK;
    case 75: *value = capability / 10; return OK;
    case 76: *value = capability % 10; return OK;
    case 97: *value = 227 << 10; return OK;
  }
  return INVALID_VALUE;
}

CUresult cuDevicePrimaryCtxRetain(void **out, int device) {
  ENTER();
  (void)device;
  ++retained;
  *out = &context;
  return OK;
}

CUresult cuDevicePrimaryCtxRelease_v2(int device) {
  (void)device;
  if (!retained--) die("released a context that nobody held");
  must_be_idle("a context was released before its work was done");
  say("released: memory %ld pinned %ld events %ld streams %ld modules %ld graphs %ld executables %ld",
      live[MEMORY], live[PINNED], live[EVENTS], live[STREAMS], live[MODULES], live[GRAPHS], live[EXECUTABLES]);
  return broken;
}

CUresult cuCtxSetCurrent(void *it) {
  ENTER();
  current = it;
  return OK;
}

CUresult cuMemGetInfo_v2(size_t *free, size_t *all) {
  ENTER_CONTEXT();
  *free = total() - used;
  *all = total();
  return OK;
}

CUresult cuMemAlloc_v2(uint64_t *address, size_t bytes) {
  ENTER_CONTEXT();
  if (!bytes) return INVALID_VALUE;
  if (bytes > total() - used) return OUT_OF_MEMORY;
  *address = (uint64_t)take(bytes, MEMORY);
  used += bytes;
  return OK;
}

CUresult cuMemFree_v2(uint64_t address) {
  must_be_idle("memory was freed before the work was done");
  give((void *)address, MEMORY);
  return broken;
}

CUresult cuMemHostAlloc(void **out, size_t bytes, unsigned flags) {
  ENTER_CONTEXT();
  (void)flags;
  *out = take(bytes, PINNED);
  return OK;
}

CUresult cuMemFreeHost(void *start) {
  struct range *range = range_of(start, 0, PINNED);
  for (struct work *work = queue.first; range && work && !broken; work = work->next)
    if (work->kind == COPY && (range_of(work->to, 1, PINNED) == range || range_of(work->from, 1, PINNED) == range))
      die("pinned memory was freed while it was copied");
  give(start, PINNED);
  return broken;
}

CUresult cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) {
  ENTER_CONTEXT();
  if (!stream || !range_of((void *)to, bytes, MEMORY) || !range_of(from, bytes, PINNED)) return INVALID_VALUE;
  return enqueue((struct work){.kind = COPY, .to = (char *)to, .from = from, .bytes = bytes});
}

CUresult cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
  ENTER_CONTEXT();
  if (!stream || !range_of((void *)from, bytes, MEMORY) || !range_of(to, bytes, PINNED)) return INVALID_VALUE;
  return enqueue((struct work){.kind = COPY, .to = to, .from = (char *)from, .bytes = bytes});
}

CUresult cuStreamCreate(void **out, unsigned flags) {
  ENTER_CONTEXT();
  if (flags != 1) return INVALID_VALUE;
  *out = malloc(1);
  ++live[STREAMS];
  return OK;
}

CUresult cuStreamDestroy_v2(void *stream) {
  free(stream);
  --live[STREAMS];
  return broken;
}

CUresult cuStreamSynchronize(void *stream) {
  ENTER_CONTEXT();
  if (!stream) return INVALID_VALUE;
  if (capturing) return CAPTURE_UNSUPPORTED;
  run_all();
  return OK;
}

CUresult cuLaunchHostFunc(void *stream, void (*host)(void *), void *data) {
  ENTER_CONTEXT();
  if (!stream) return INVALID_VALUE;
  return enqueue((struct work){.kind = HOST, .host = host, .data = data});
}

CUresult cuEventCreate(void **out, unsigned flags) {
  ENTER_CONTEXT();
  (void)flags;
  *out = calloc(1, sizeof(struct event));
  ++live[EVENTS];
  return OK;
}

CUresult cuEventDestroy_v2(struct event *event) {
  for (struct work *work = queue.first; work && !broken; work = work->next)
    if (work->event == event) die("an event was destroyed before it passed");
  free(event);
  --live[EVENTS];
  return broken;
}

CUresult cuEventRecord(struct event *event, void *stream) {
  ENTER_CONTEXT();
  if (!stream || capturing) return INVALID_VALUE;
  event->recorded = ++serial;
  return enqueue((struct work){.kind = EVENT, .event = event, .serial = serial});
}

CUresult cuEventSynchronize(struct event *event) {
  ENTER_CONTEXT();
  if (capturing) return CAPTURE_UNSUPPORTED;
  while (event->passed < event->recorded) run_one();
  return OK;
}

CUresult cuEventElapsedTime(float *out, struct event *first, struct event *last) {
  ENTER_CONTEXT();
  if (first->passed < first->recorded || last->passed < last->recorded) return INVALID_VALUE;
  *out = last->milliseconds - first->milliseconds;
  return OK;
}

CUresult cuModuleLoadData(char **out, const char *image) {
  ENTER_CONTEXT();
  if (strncmp(image, "cubin of ", 9)) return INVALID_IMAGE;
  *out = strdup(image);
  ++live[MODULES];
  return OK;
}

CUresult cuModuleUnload(char *module) {
  must_be_idle("a module was unloaded before its kernels were done");
  free(module);
  --live[MODULES];
  return broken;
}

CUresult cuModuleGetFunction(struct function **out, char *module, const char *name) {
  ENTER_CONTEXT();
  (void)module;
  say("get %s", name);
  // As many as a process ever asks for, and never freed: the driver keeps them in the module.
  *out = calloc(1, sizeof **out);
  snprintf((*out)->name, sizeof (*out)->name, "%s", name);
  return OK;
}

CUresult cuFuncSetAttribute(struct function *function, int attribute, int value) {
  ENTER_CONTEXT();
  if (attribute != 8 || value > 227 << 10) return INVALID_VALUE;
  function->shared_bytes = value;
  return OK;
}

CUresult cuLaunchKernel(struct function *function, unsigned x, unsigned y, unsigned z, unsigned block,
                        unsigned block_y, unsigned block_z, unsigned shared_bytes, void *stream, void **params,
                        void **extra) {
  ENTER_CONTEXT();
  if (!stream || extra || !x || !y || !z || y > 65535 || z > 65535 || !block || block > 1024) return INVALID_VALUE;
  if (block_y != 1 || block_z != 1) return INVALID_VALUE;
  if (shared_bytes > 48 << 10 && shared_bytes > function->shared_bytes) return INVALID_VALUE;
  struct work work = {.kind = LAUNCH, .function = function, .grid = {x, y, z}, .block = block,
                      .shared_bytes = shared_bytes};
  if (!strcmp(function->name, "soft_cap")) memcpy(&work.params, params[0], sizeof work.params);
  return enqueue(work);
}

CUresult cuStreamBeginCapture_v2(void *stream, int mode) {
  ENTER_CONTEXT();
  if (!stream || capturing || mode != 2) return INVALID_VALUE;
  capturing = 1;
  return OK;
}

CUresult cuStreamEndCapture(void *stream, struct list **out) {
  if (!stream || !capturing) return INVALID_VALUE;
  capturing = 0;
  *out = malloc(sizeof **out);
  **out = capture;
  capture = (struct list){0};
  ++live[GRAPHS];
  ENTER_CONTEXT();
  return OK;
}

CUresult cuGraphDestroy(struct list *graph) {
  for (struct work *work = graph->first, *next; work; work = next) {
    next = work->next;
    free(work);
  }
  free(graph);
  --live[GRAPHS];
  return broken;
}

CUresult cuGraphInstantiateWithFlags(struct list **out, struct list *graph, unsigned long long flags) {
  ENTER_CONTEXT();
  if (flags) return INVALID_VALUE;
  *out = calloc(1, sizeof **out);
  for (struct work *work = graph->first; work; work = work->next) append(*out, work);
  ++live[EXECUTABLES];
  return OK;
}

CUresult cuGraphExecDestroy(struct list *executable) {
  must_be_idle("a recording was destroyed before it was done");
  ++live[GRAPHS];
  --live[EXECUTABLES];
  return cuGraphDestroy(executable);
}

CUresult cuGraphLaunch(struct list *executable, void *stream) {
  ENTER_CONTEXT();
  if (!stream || capturing) return INVALID_VALUE;
  for (struct work *work = executable->first; work; work = work->next) append(&queue, work);
  return OK;
}
