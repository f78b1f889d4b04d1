/* Write Gapura plugins in C. The types are those of `wit/`, word for word.
 *
 * A stage is a function; the macro of its name in stages.h exports it. What a function
 * is given, and what `gapura_alloc` and the functions below return, lives until the host has read
 * the function's result: a processor keeps what it needs with `gapura_copy` and `free`s it itself.
 *
 * The layouts are the canonical ABI's on wasm32, so nothing is converted on the way in or out. The
 * same code compiles for the machine that tests it: a test calls the stage like any function, and
 * defines those of the host's functions (`gapura_import_*`) that the plugin calls.
 */
#ifndef GAPURA_H
#define GAPURA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Text in UTF-8, `len` bytes, which may have zero bytes among them and none behind them. */
typedef struct {
  const char *ptr;
  size_t len;
} gapura_string;

typedef struct {
  gapura_string *ptr;
  size_t len;
} gapura_strings;

typedef struct {
  uint8_t *ptr;
  size_t len;
} gapura_bytes;

typedef struct {
  bool is_some;
  gapura_string value;
} gapura_option_string;

typedef struct {
  bool is_some;
  uint32_t value;
} gapura_option_u32;

typedef struct {
  bool is_some;
  int64_t value;
} gapura_option_s64;

typedef struct {
  bool is_some;
  float value;
} gapura_option_f32;

/* ---- types.wit ---- */

typedef uint8_t gapura_role;
enum { GAPURA_SYSTEM, GAPURA_DEVELOPER, GAPURA_USER, GAPURA_ASSISTANT, GAPURA_TOOL };

typedef uint8_t gapura_finish_reason;
enum { GAPURA_STOP, GAPURA_LENGTH, GAPURA_CONTENT_FILTER, GAPURA_TOOL_CALLS };

typedef struct {
  gapura_string id;
  gapura_string name;
  gapura_string arguments;
} gapura_tool_call;

typedef struct {
  gapura_tool_call *ptr;
  size_t len;
} gapura_tool_calls;

typedef struct {
  gapura_role role;
  gapura_strings content;
  gapura_option_string name;
  gapura_tool_calls tool_calls;
  gapura_option_string tool_call_id;
} gapura_message;

typedef struct {
  gapura_message *ptr;
  size_t len;
} gapura_messages;

typedef struct {
  gapura_option_u32 max_tokens;
  gapura_option_f32 temperature;
  gapura_option_f32 top_p;
  gapura_option_u32 top_k;
  gapura_option_f32 min_p;
  gapura_option_s64 seed;
  gapura_strings stop;
  gapura_option_f32 presence_penalty;
  gapura_option_f32 frequency_penalty;
  gapura_option_f32 repetition_penalty;
} gapura_sampling;

typedef struct {
  gapura_string request_id;
  gapura_string route;
  gapura_string model;
  gapura_option_string tenant;
  bool stream;
  gapura_messages messages;
  gapura_sampling sampling;
  gapura_string extra;
  gapura_string call_id;
} gapura_chat;

typedef struct {
  uint16_t status;
  gapura_string code;
  gapura_string message;
  gapura_option_string param;
} gapura_refusal;

typedef struct {
  gapura_string message;
} gapura_failure;

typedef struct {
  enum gapura_grammar_tag { GAPURA_JSON_SCHEMA, GAPURA_REGEX, GAPURA_LARK } __attribute__((packed)) tag;
  gapura_string text;
} gapura_grammar;

typedef struct {
  bool is_some;
  gapura_grammar value;
} gapura_option_grammar;

/* ---- request-validation.wit ---- */

typedef struct {
  struct {
    bool is_some;
    gapura_messages value;
  } messages;
  struct {
    bool is_some;
    gapura_sampling value;
  } sampling;
} gapura_amendment;

typedef struct {
  gapura_string text;
  gapura_finish_reason finish;
} gapura_reply;

typedef struct {
  enum gapura_verdict_tag {
    GAPURA_ACCEPT,
    GAPURA_AMEND,
    GAPURA_REFUSE,
    GAPURA_ANSWER,
    GAPURA_REROUTE,
  } __attribute__((packed)) tag;
  union {
    gapura_amendment amend;
    gapura_refusal refuse;
    gapura_reply answer;
    gapura_string reroute;
  };
} gapura_verdict;

/* What `validate` returns: `result<verdict, failure>`. */
typedef struct {
  bool is_failure;
  union {
    gapura_verdict verdict;
    gapura_failure failure;
  };
} gapura_validated;

/* ---- prompt-template.wit ---- */

typedef struct {
  enum gapura_segment_tag { GAPURA_TEXT, GAPURA_CONTROL, GAPURA_PREFIX_END } __attribute__((packed)) tag;
  gapura_string text;
} gapura_segment;

typedef struct {
  struct {
    gapura_segment *ptr;
    size_t len;
  } segments;
  gapura_strings stop;
  gapura_option_grammar grammar;
} gapura_prompt;

/* What `render` returns: `result<prompt, refusal>`. */
typedef struct {
  bool is_refusal;
  union {
    gapura_prompt prompt;
    gapura_refusal refusal;
  };
} gapura_rendered;

/* ---- response-processing.wit ---- */

typedef struct {
  gapura_string request_id;
  gapura_string route;
  gapura_string model;
  gapura_option_string tenant;
  bool stream;
  uint32_t choice;
  gapura_string extra;
  gapura_string call_id;
} gapura_context;

typedef struct {
  gapura_string text;
  struct {
    uint32_t *ptr;
    size_t len;
  } token_ids;
  struct {
    float *ptr;
    size_t len;
  } logprobs;
} gapura_delta;

typedef struct {
  enum gapura_action_tag { GAPURA_EMIT, GAPURA_HOLD, GAPURA_CUT } __attribute__((packed)) tag;
  union {
    gapura_string emit;
    struct {
      gapura_finish_reason reason;
      gapura_string text;
    } cut;
  };
} gapura_action;

/* ---- completion-observer.wit ---- */

typedef struct {
  gapura_string request_id;
  gapura_string route;
  gapura_string model;
  gapura_option_string tenant;
  bool stream;
  uint32_t choice;
  struct {
    enum gapura_outcome_tag { GAPURA_FINISHED, GAPURA_CANCELLED, GAPURA_FAILED } __attribute__((packed)) tag;
    union {
      gapura_finish_reason finished;
      gapura_string failed;
    };
  } outcome;
  uint32_t prompt_tokens;
  uint32_t cached_tokens;
  uint32_t completion_tokens;
  uint64_t queue;
  uint64_t prefill;
  uint64_t decode;
  gapura_strings chain;
  gapura_string call_id;
} gapura_summary;

/* ---- imports.wit; a plugin imports those that it calls, and wit/world.wit names them ---- */

typedef struct {
  gapura_messages messages;
  uint32_t max_tokens;
  float temperature;
  gapura_option_grammar grammar;
} gapura_question;

typedef struct {
  gapura_string text;
  gapura_finish_reason finish;
  uint32_t prompt_tokens;
  uint32_t completion_tokens;
} gapura_model_answer;

typedef struct {
  enum gapura_model_error_tag {
    GAPURA_ASK_BUDGET,
    GAPURA_ASK_DEPTH,
    GAPURA_ASK_DEADLINE,
    GAPURA_ASK_OVERLOADED,
    GAPURA_ASK_INVALID,
    GAPURA_ASK_FAILED,
  } __attribute__((packed)) tag;
  /* Not of GAPURA_ASK_DEPTH, GAPURA_ASK_DEADLINE and GAPURA_ASK_OVERLOADED. */
  gapura_string message;
} gapura_model_error;

/* What the model says: `result<model-answer, model-error>`. */
typedef struct {
  bool is_error;
  union {
    gapura_model_answer answer;
    gapura_model_error error;
  };
} gapura_said;

typedef uint8_t gapura_method;
enum { GAPURA_GET, GAPURA_HEAD, GAPURA_POST, GAPURA_PUT, GAPURA_PATCH, GAPURA_DELETE };

typedef struct {
  gapura_string name;
  gapura_string value;
} gapura_header;

typedef struct {
  gapura_header *ptr;
  size_t len;
} gapura_headers;

typedef struct {
  gapura_method method;
  gapura_string url;
  gapura_headers headers;
  gapura_bytes body;
  gapura_option_u32 timeout_ms;
} gapura_request;

typedef struct {
  uint16_t status;
  gapura_headers headers;
  gapura_bytes body;
} gapura_response;

typedef struct {
  enum gapura_http_error_tag {
    GAPURA_HTTP_DENIED,
    GAPURA_HTTP_INVALID_REQUEST,
    GAPURA_HTTP_BUDGET,
    GAPURA_HTTP_TIMEOUT,
    GAPURA_HTTP_TOO_LARGE,
    GAPURA_HTTP_CONNECT,
    GAPURA_HTTP_TLS,
    GAPURA_HTTP_PROTOCOL,
  } __attribute__((packed)) tag;
  union {
    /* Of all but GAPURA_HTTP_TIMEOUT and GAPURA_HTTP_TOO_LARGE. */
    gapura_string message;
    /* Of GAPURA_HTTP_TOO_LARGE: the most bytes. */
    uint64_t limit;
  };
} gapura_http_error;

/* What the server says: `result<response, http-error>`. */
typedef struct {
  bool is_error;
  union {
    gapura_response response;
    gapura_http_error error;
  };
} gapura_responded;

enum { GAPURA_DEBUG, GAPURA_INFO, GAPURA_WARN, GAPURA_ERROR };

/* Writes one line to the host's log. */
void gapura_log(int level, gapura_string message);
/* The settings of this binding: a JSON object. */
gapura_string gapura_config(void);
/* How many tokens `text` is. */
uint32_t gapura_count_tokens(gapura_string text);
/* Adds `by` to the counter `name`. */
void gapura_metrics_add(gapura_string name, uint64_t by);
/* Puts `value` into the histogram `name`. */
void gapura_metrics_observe(gapura_string name, double value);
/* True, and the value of `key`, if there is one. */
bool gapura_kv_get(gapura_string key, gapura_bytes *value);
/* Puts a value, for `ttl_ms` milliseconds unless NULL; 0, or the most bytes that an entry may have. */
uint64_t gapura_kv_set(gapura_string key, gapura_bytes value, const uint64_t *ttl_ms);
/* Forgets `key`; true if it was there. */
bool gapura_kv_delete(gapura_string key);
/* Milliseconds since 1970-01-01 00:00 UTC. */
uint64_t gapura_now(void);
/* Nanoseconds since a moment that is the same for one request. */
uint64_t gapura_monotonic(void);
/* `count` random bytes; at most 4,096. */
gapura_bytes gapura_random_bytes(uint32_t count);
/* 64 random bits. */
uint64_t gapura_random_bits(void);
/* Asks the loaded model, and waits for the whole answer. */
gapura_said gapura_ask(const gapura_question *question);
/* Sends an HTTP request to a host that the route allows, and waits for the whole response. */
gapura_responded gapura_send(const gapura_request *request);

/* ---- conveniences ---- */

/* `size` bytes, zeroed, until the host has read the result of this call. */
void *gapura_alloc(size_t size);
/* Text that outlives this call, until it is `free`d. */
char *gapura_copy(gapura_string text);
/* Text made as by printf. */
gapura_string gapura_format(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Whether `text` is `other`. */
bool gapura_is(gapura_string text, const char *other);

static inline gapura_string gapura_text(const char *text) {
  return (gapura_string){text, strlen(text)};
}

static inline gapura_validated gapura_accept(void) {
  return (gapura_validated){.verdict = {.tag = GAPURA_ACCEPT}};
}

static inline gapura_validated gapura_refuse(gapura_refusal refusal) {
  return (gapura_validated){.verdict = {.tag = GAPURA_REFUSE, .refuse = refusal}};
}

static inline gapura_validated gapura_answer(gapura_string text) {
  return (gapura_validated){.verdict = {.tag = GAPURA_ANSWER, .answer = {text, GAPURA_STOP}}};
}

static inline gapura_validated gapura_fail(gapura_string message) {
  return (gapura_validated){.is_failure = true, .failure = {message}};
}

static inline gapura_action gapura_emit(gapura_string text) {
  return (gapura_action){.tag = GAPURA_EMIT, .emit = text};
}

#include "stages.h"

#endif
