#include "describe.h"

#include <inttypes.h>
#include <math.h>

/* ---- text that grows ---- */

struct text {
  char *ptr;
  size_t len, room;
};

static void put(struct text *text, gapura_string piece) {
  if (text->len + piece.len > text->room) {
    text->room = 2 * (text->len + piece.len);
    char *larger = gapura_alloc(text->room);
    if (text->len > 0) memcpy(larger, text->ptr, text->len);
    text->ptr = larger;
  }
  memcpy(text->ptr + text->len, piece.ptr, piece.len);
  text->len += piece.len;
}

static void put_all(struct text *text, const char *between, const gapura_string *pieces, size_t count) {
  for (size_t i = 0; i < count; i++) {
    if (i > 0) put(text, gapura_text(between));
    put(text, pieces[i]);
  }
}

static gapura_string joined(const char *between, const gapura_string *pieces, size_t count) {
  struct text text = {0};
  put_all(&text, between, pieces, count);
  return (gapura_string){text.ptr, text.len};
}

#define JOIN(between, ...)                                                                         \
  joined(between, (gapura_string[]){__VA_ARGS__},                                                  \
         sizeof((gapura_string[]){__VA_ARGS__}) / sizeof(gapura_string))

static gapura_string list(const gapura_string *pieces, size_t count) {
  return JOIN("", gapura_text("["), joined(",", pieces, count), gapura_text("]"));
}

static gapura_string list_of(gapura_strings strings) {
  return list(strings.ptr, strings.len);
}

/* ---- values ---- */

static gapura_string number(int64_t value) {
  return gapura_format("%" PRId64, value);
}

static gapura_string milli(float value) {
  return number((int64_t)floor((double)value * 1000 + 0.5));
}

static gapura_string boolean(bool value) {
  return gapura_text(value ? "true" : "false");
}

gapura_string describe_option(gapura_option_string value) {
  return value.is_some ? JOIN("", gapura_text("="), value.value) : gapura_text("-");
}

static gapura_string option_u32(gapura_option_u32 it) {
  return describe_option((gapura_option_string){it.is_some, number(it.value)});
}

static gapura_string option_s64(gapura_option_s64 it) {
  return describe_option((gapura_option_string){it.is_some, number(it.value)});
}

static gapura_string option_f32(gapura_option_f32 it) {
  return describe_option((gapura_option_string){it.is_some, milli(it.is_some ? it.value : 0)});
}

gapura_string describe_role(gapura_role role) {
  static const char *const names[] = {"system", "developer", "user", "assistant", "tool"};
  return gapura_text(names[role]);
}

gapura_string describe_reason(gapura_finish_reason reason) {
  static const char *const names[] = {"stop", "length", "content-filter", "tool-calls"};
  return gapura_text(names[reason]);
}

/* ---- records ---- */

static gapura_string message(const gapura_message *it) {
  size_t count = it->tool_calls.len;
  gapura_string *calls = gapura_alloc(count * sizeof *calls);
  for (size_t i = 0; i < count; i++) {
    const gapura_tool_call *call = &it->tool_calls.ptr[i];
    calls[i] = JOIN("/", call->id, call->name, call->arguments);
  }
  return JOIN(":", describe_role(it->role), list_of(it->content), describe_option(it->name),
              list(calls, count), describe_option(it->tool_call_id));
}

static gapura_string sampling(const gapura_sampling *it) {
  return JOIN(" ", option_u32(it->max_tokens), option_f32(it->temperature), option_f32(it->top_p),
              option_u32(it->top_k), option_f32(it->min_p), option_s64(it->seed), list_of(it->stop),
              option_f32(it->presence_penalty), option_f32(it->frequency_penalty),
              option_f32(it->repetition_penalty));
}

gapura_string describe_chat(const gapura_chat *chat) {
  size_t count = chat->messages.len;
  gapura_string *messages = gapura_alloc(count * sizeof *messages);
  for (size_t i = 0; i < count; i++) messages[i] = message(&chat->messages.ptr[i]);
  return JOIN("|", chat->request_id, chat->route, chat->model, describe_option(chat->tenant),
              boolean(chat->stream), list(messages, count), sampling(&chat->sampling), chat->extra,
              chat->call_id);
}

gapura_string describe_context(const gapura_context *context) {
  return JOIN("|", context->request_id, context->route, context->model,
              describe_option(context->tenant), boolean(context->stream), number(context->choice),
              context->extra, context->call_id);
}

gapura_string describe_delta(const gapura_delta *delta) {
  size_t num_ids = delta->token_ids.len, num_logprobs = delta->logprobs.len;
  gapura_string *ids = gapura_alloc(num_ids * sizeof *ids);
  for (size_t i = 0; i < num_ids; i++) ids[i] = number(delta->token_ids.ptr[i]);
  gapura_string *logprobs = gapura_alloc(num_logprobs * sizeof *logprobs);
  for (size_t i = 0; i < num_logprobs; i++) logprobs[i] = milli(delta->logprobs.ptr[i]);
  return JOIN("|", delta->text, list(ids, num_ids), list(logprobs, num_logprobs));
}

gapura_string describe_summary(const gapura_summary *it) {
  gapura_string outcome = gapura_text("cancelled");
  if (it->outcome.tag == GAPURA_FINISHED)
    outcome = JOIN(":", gapura_text("finished"), describe_reason(it->outcome.finished));
  if (it->outcome.tag == GAPURA_FAILED)
    outcome = JOIN(":", gapura_text("failed"), it->outcome.failed);
  return JOIN("|", it->request_id, it->route, it->model, describe_option(it->tenant),
              boolean(it->stream), number(it->choice), outcome, number(it->prompt_tokens),
              number(it->cached_tokens), number(it->completion_tokens),
              number((int64_t)it->queue), number((int64_t)it->prefill),
              number((int64_t)it->decode), list_of(it->chain), it->call_id);
}
