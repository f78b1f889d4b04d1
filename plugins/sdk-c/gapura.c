/* The host's functions, and memory that lives for one call. */

#include "gapura.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- memory ---- */

/* A block that `gapura_forget` frees. Its bytes are aligned for every type of the contract. */
struct block {
  struct block *next;
  _Alignas(8) unsigned char bytes[];
};

static struct block *blocks;

void *gapura_alloc(size_t size) {
  struct block *block = calloc(1, sizeof *block + size);
  if (block == NULL) abort();
  block->next = blocks;
  blocks = block;
  return block->bytes;
}

void gapura_forget(void) {
  while (blocks != NULL) {
    struct block *next = blocks->next;
    free(blocks);
    blocks = next;
  }
}

char *gapura_copy(gapura_string text) {
  char *copy = malloc(text.len + 1);
  if (copy == NULL) abort();
  memcpy(copy, text.ptr, text.len);
  copy[text.len] = '\0';
  return copy;
}

gapura_string gapura_format(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int len = vsnprintf(NULL, 0, format, arguments);
  va_end(arguments);
  if (len < 0) abort();
  char *text = gapura_alloc((size_t)len + 1);
  va_start(arguments, format);
  vsnprintf(text, (size_t)len + 1, format, arguments);
  va_end(arguments);
  return (gapura_string){text, (size_t)len};
}

bool gapura_is(gapura_string text, const char *other) {
  return text.len == strlen(other) && memcmp(text.ptr, other, text.len) == 0;
}

/* ---- imports ---- */

#ifdef __wasm__
#define IMPORT(interface, name)                                                                    \
  __attribute__((import_module("gapura:plugin/" interface "@0.1.0"), import_name(name)))

/* Where the host puts what it is given and what it returns. It never makes a block larger. */
__attribute__((export_name("cabi_realloc"))) void *cabi_realloc(void *old, size_t old_size,
                                                                size_t align, size_t size) {
  (void)old, (void)old_size, (void)align;
  return gapura_alloc(size);
}

__attribute__((import_module("[export]gapura:plugin/response-processing@0.1.0"),
               import_name("[resource-new]processor"))) int32_t gapura_import_processor(void *self);

int32_t gapura_processor_new(void *processor) {
  return gapura_import_processor(processor);
}

#define LAYOUT(type, size, alignment)                                                              \
  _Static_assert(sizeof(type) == (size) && _Alignof(type) == (alignment), #type)
LAYOUT(gapura_message, 44, 4);
LAYOUT(gapura_sampling, 88, 8);
LAYOUT(gapura_chat, 152, 8);
LAYOUT(gapura_refusal, 32, 4);
LAYOUT(gapura_validated, 128, 8);
LAYOUT(gapura_rendered, 36, 4);
LAYOUT(gapura_action, 16, 4);
LAYOUT(gapura_summary, 112, 8);
LAYOUT(gapura_said, 24, 4);
LAYOUT(gapura_responded, 32, 8);
#else
/* A test defines those that its plugin calls. */
#define IMPORT(interface, name) __attribute__((weak))

int32_t gapura_processor_new(void *processor) {
  (void)processor;
  return 0;
}
#endif

IMPORT("log", "write") void gapura_import_log(int32_t level, const char *ptr, size_t len);
IMPORT("config", "get") void gapura_import_config(gapura_string *result);
IMPORT("tokenizer", "count") uint32_t gapura_import_count(const char *ptr, size_t len);
IMPORT("metrics", "add") void gapura_import_add(const char *ptr, size_t len, uint64_t by);
IMPORT("metrics", "observe") void gapura_import_observe(const char *ptr, size_t len, double value);
IMPORT("clock", "now") uint64_t gapura_import_now(void);
IMPORT("clock", "monotonic") uint64_t gapura_import_monotonic(void);
IMPORT("random", "bytes") void gapura_import_random_bytes(uint32_t count, gapura_bytes *result);
IMPORT("random", "bits") uint64_t gapura_import_random_bits(void);
IMPORT("kv", "delete") int32_t gapura_import_kv_delete(const char *ptr, size_t len);

struct optional_bytes {
  bool is_some;
  gapura_bytes value;
};
IMPORT("kv", "get")
void gapura_import_kv_get(const char *ptr, size_t len, struct optional_bytes *result);

struct kept {
  bool is_error;
  struct {
    uint8_t tag;
    uint64_t too_large;
  } error;
};
IMPORT("kv", "set")
void gapura_import_kv_set(const char *key, size_t key_len, const uint8_t *value, size_t value_len,
                          int32_t has_ttl, uint64_t ttl_ms, struct kept *result);

IMPORT("model", "ask")
void gapura_import_ask(const gapura_message *messages, size_t num_messages, uint32_t max_tokens,
                       float temperature, int32_t has_grammar, int32_t grammar_tag,
                       const char *grammar, size_t grammar_len, gapura_said *result);

IMPORT("http", "send")
void gapura_import_send(int32_t method, const char *url, size_t url_len,
                        const gapura_header *headers, size_t num_headers, const uint8_t *body,
                        size_t body_len, int32_t has_timeout, uint32_t timeout_ms,
                        gapura_responded *result);

void gapura_log(int level, gapura_string message) {
  gapura_import_log(level, message.ptr, message.len);
}

gapura_string gapura_config(void) {
  gapura_string settings;
  gapura_import_config(&settings);
  return settings;
}

uint32_t gapura_count_tokens(gapura_string text) {
  return gapura_import_count(text.ptr, text.len);
}

void gapura_metrics_add(gapura_string name, uint64_t by) {
  gapura_import_add(name.ptr, name.len, by);
}

void gapura_metrics_observe(gapura_string name, double value) {
  gapura_import_observe(name.ptr, name.len, value);
}

bool gapura_kv_get(gapura_string key, gapura_bytes *value) {
  struct optional_bytes found;
  gapura_import_kv_get(key.ptr, key.len, &found);
  if (found.is_some) *value = found.value;
  return found.is_some;
}

uint64_t gapura_kv_set(gapura_string key, gapura_bytes value, const uint64_t *ttl_ms) {
  struct kept kept;
  gapura_import_kv_set(key.ptr, key.len, value.ptr, value.len, ttl_ms != NULL,
                       ttl_ms != NULL ? *ttl_ms : 0, &kept);
  return kept.is_error ? kept.error.too_large : 0;
}

bool gapura_kv_delete(gapura_string key) {
  return gapura_import_kv_delete(key.ptr, key.len) != 0;
}

uint64_t gapura_now(void) {
  return gapura_import_now();
}

uint64_t gapura_monotonic(void) {
  return gapura_import_monotonic();
}

gapura_bytes gapura_random_bytes(uint32_t count) {
  gapura_bytes bytes;
  gapura_import_random_bytes(count, &bytes);
  return bytes;
}

uint64_t gapura_random_bits(void) {
  return gapura_import_random_bits();
}

gapura_said gapura_ask(const gapura_question *question) {
  gapura_said said;
  const gapura_grammar *grammar = &question->grammar.value;
  gapura_import_ask(question->messages.ptr, question->messages.len, question->max_tokens,
                    question->temperature, question->grammar.is_some, grammar->tag,
                    grammar->text.ptr, grammar->text.len, &said);
  return said;
}

gapura_responded gapura_send(const gapura_request *request) {
  gapura_responded responded;
  gapura_import_send(request->method, request->url.ptr, request->url.len, request->headers.ptr,
                     request->headers.len, request->body.ptr, request->body.len,
                     request->timeout_ms.is_some, request->timeout_ms.value, &responded);
  return responded;
}
