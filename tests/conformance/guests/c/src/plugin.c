/* The conformance plugin in C; ../../../README.md says what it does. */

#include "describe.h"

#include <inttypes.h>
#include <stdlib.h>

/* ---- commands ---- */

static gapura_strings command(const gapura_chat *chat) {
  return chat->messages.ptr[chat->messages.len - 1].content;
}

/* The argument `index`, from 1; empty if there is none. */
static gapura_string argument(gapura_strings command, size_t index) {
  return index < command.len ? command.ptr[index] : gapura_text("");
}

static int64_t number(gapura_string text) {
  char digits[24] = {0};
  memcpy(digits, text.ptr, text.len < sizeof digits ? text.len : sizeof digits - 1);
  return strtoll(digits, NULL, 10);
}

static gapura_finish_reason reason_of(gapura_string name) {
  gapura_finish_reason reason = GAPURA_STOP;
  while (reason < GAPURA_TOOL_CALLS && !gapura_is(name, describe_reason(reason).ptr)) reason++;
  return reason;
}

static gapura_refusal refusal(gapura_strings command) {
  return (gapura_refusal){
      .status = (uint16_t)number(argument(command, 1)),
      .code = argument(command, 2),
      .message = argument(command, 3),
      .param = {command.len > 4, argument(command, 4)},
  };
}

static gapura_option_grammar grammar(gapura_strings command) {
  static const char *const kinds[] = {"json-schema", "regex", "lark"};
  for (int kind = GAPURA_JSON_SCHEMA; kind <= GAPURA_LARK; kind++)
    if (gapura_is(argument(command, 1), kinds[kind]))
      return (gapura_option_grammar){true, {kind, argument(command, 2)}};
  return (gapura_option_grammar){0};
}

static gapura_messages all_but_the_last(const gapura_chat *chat) {
  return (gapura_messages){chat->messages.ptr, chat->messages.len - 1};
}

static gapura_validated amend(const gapura_messages *messages, const gapura_sampling *sampling) {
  gapura_validated result = {.verdict = {.tag = GAPURA_AMEND}};
  gapura_amendment *amendment = &result.verdict.amend;
  amendment->messages.is_some = messages != NULL;
  if (messages != NULL) amendment->messages.value = *messages;
  amendment->sampling.is_some = sampling != NULL;
  if (sampling != NULL) amendment->sampling.value = *sampling;
  return result;
}

static gapura_string remember(gapura_string key, gapura_string value, const uint64_t *ttl_ms) {
  uint64_t limit = gapura_kv_set(key, (gapura_bytes){(uint8_t *)value.ptr, value.len}, ttl_ms);
  return limit == 0 ? gapura_text("kept") : gapura_format("too-large:%" PRIu64, limit);
}

static gapura_string recall(gapura_string key) {
  gapura_bytes value = {0};
  bool found = gapura_kv_get(key, &value);
  return describe_option((gapura_option_string){found, {(const char *)value.ptr, value.len}});
}

static gapura_string random_numbers(uint32_t count) {
  gapura_bytes bytes = gapura_random_bytes(count);
  char *hex = gapura_alloc(2 * bytes.len + 1);
  for (size_t i = 0; i < bytes.len; i++) {
    hex[2 * i] = "0123456789abcdef"[bytes.ptr[i] >> 4];
    hex[2 * i + 1] = "0123456789abcdef"[bytes.ptr[i] & 15];
  }
  return gapura_format("%s %" PRIu64, hex, gapura_random_bits() >> 11);
}

static gapura_string ask(const gapura_chat *chat) {
  static const char *const errors[] = {"budget", "depth", "deadline", "overloaded", "invalid", "failed"};
  gapura_question question = {all_but_the_last(chat), 7, 0.5F, grammar(command(chat))};
  gapura_said said = gapura_ask(&question);
  if (!said.is_error) {
    const gapura_model_answer *answer = &said.answer;
    return gapura_format("%.*s|%s|%u|%u", (int)answer->text.len, answer->text.ptr,
                         describe_reason(answer->finish).ptr, answer->prompt_tokens,
                         answer->completion_tokens);
  }
  const gapura_model_error *error = &said.error;
  bool says_more = error->tag == GAPURA_ASK_BUDGET || error->tag >= GAPURA_ASK_INVALID;
  return gapura_format("%s:%.*s", errors[error->tag], says_more ? (int)error->message.len : 0,
                       says_more ? error->message.ptr : "");
}

static gapura_string send(gapura_strings command) {
  static const char *const methods[] = {"get", "head", "post", "put", "patch", "delete"};
  static const char *const errors[] = {"denied",    "invalid-request", "budget", "timeout",
                                       "too-large", "connect",         "tls",    "protocol"};
  gapura_string body = argument(command, 3), milliseconds = argument(command, 4);
  size_t num_headers = command.len < 5 ? 0 : (command.len - 5) / 2;
  gapura_header *headers = gapura_alloc(num_headers * sizeof *headers);
  for (size_t i = 0; i < num_headers; i++)
    headers[i] = (gapura_header){argument(command, 5 + 2 * i), argument(command, 6 + 2 * i)};
  gapura_request request = {
      .method = GAPURA_GET,
      .url = argument(command, 2),
      .headers = {headers, num_headers},
      .body = {(uint8_t *)body.ptr, body.len},
      .timeout_ms = {!gapura_is(milliseconds, "-"), (uint32_t)number(milliseconds)},
  };
  while (request.method < GAPURA_DELETE && !gapura_is(argument(command, 1), methods[request.method]))
    request.method++;
  gapura_responded responded = gapura_send(&request);
  if (responded.is_error) {
    const gapura_http_error *error = &responded.error;
    if (error->tag == GAPURA_HTTP_TIMEOUT) return gapura_text("timeout:");
    if (error->tag == GAPURA_HTTP_TOO_LARGE) return gapura_format("too-large:%" PRIu64, error->limit);
    return gapura_format("%s:%.*s", errors[error->tag], (int)error->message.len, error->message.ptr);
  }
  const gapura_response *response = &responded.response;
  gapura_string lines = gapura_text("");
  for (size_t i = 0; i < response->headers.len; i++) {
    const gapura_header *header = &response->headers.ptr[i];
    lines = gapura_format("%.*s%s%.*s:%.*s", (int)lines.len, lines.ptr, i == 0 ? "" : ",",
                          (int)header->name.len, header->name.ptr, (int)header->value.len,
                          header->value.ptr);
  }
  return gapura_format("%u|[%.*s]|%.*s", response->status, (int)lines.len, lines.ptr,
                       (int)response->body.len, (const char *)response->body.ptr);
}

/* ---- stages ---- */

static gapura_validated validate(const gapura_chat *chat) {
  gapura_strings all = command(chat);
  gapura_string name = argument(all, 0), first = argument(all, 1), second = argument(all, 2);
  gapura_messages messages = all_but_the_last(chat);
  if (gapura_is(name, "mirror")) return amend(&chat->messages, &chat->sampling);
  if (gapura_is(name, "amend-messages")) return amend(&messages, NULL);
  if (gapura_is(name, "amend-sampling")) return amend(NULL, &chat->sampling);
  if (gapura_is(name, "amend-nothing")) return amend(NULL, NULL);
  if (gapura_is(name, "refuse")) return gapura_refuse(refusal(all));
  if (gapura_is(name, "answer")) {
    gapura_validated result = gapura_answer(second);
    result.verdict.answer.finish = reason_of(first);
    return result;
  }
  if (gapura_is(name, "reroute"))
    return (gapura_validated){.verdict = {.tag = GAPURA_REROUTE, .reroute = first}};
  if (gapura_is(name, "fail")) return gapura_fail(first);
  if (gapura_is(name, "describe")) return gapura_answer(describe_chat(chat));
  if (gapura_is(name, "config")) return gapura_answer(gapura_config());
  if (gapura_is(name, "count"))
    return gapura_answer(gapura_format("%u", (unsigned)gapura_count_tokens(first)));
  if (gapura_is(name, "log")) {
    static const char *const levels[] = {"debug", "info", "warn", "error"};
    int level = GAPURA_DEBUG;
    while (level < GAPURA_ERROR && !gapura_is(first, levels[level])) level++;
    gapura_log(level, second);
  }
  if (gapura_is(name, "add")) gapura_metrics_add(first, (uint64_t)number(second));
  if (gapura_is(name, "observe")) gapura_metrics_observe(first, (double)number(second) / 1000);
  if (gapura_is(name, "remember")) {
    uint64_t ttl_ms = (uint64_t)number(argument(all, 3));
    return gapura_answer(remember(first, second, all.len > 3 ? &ttl_ms : NULL));
  }
  if (gapura_is(name, "recall")) return gapura_answer(recall(first));
  if (gapura_is(name, "forget"))
    return gapura_answer(gapura_text(gapura_kv_delete(first) ? "true" : "false"));
  if (gapura_is(name, "time"))
    return gapura_answer(gapura_format("%" PRIu64 " %" PRIu64, gapura_now(), gapura_monotonic()));
  if (gapura_is(name, "random")) return gapura_answer(random_numbers((uint32_t)number(first)));
  if (gapura_is(name, "ask")) return gapura_answer(ask(chat));
  if (gapura_is(name, "send")) return gapura_answer(send(all));
  return gapura_accept();
}

static gapura_rendered render(const gapura_chat *chat) {
  gapura_strings all = command(chat);
  if (gapura_is(argument(all, 0), "refuse"))
    return (gapura_rendered){.is_refusal = true, .refusal = refusal(all)};
  size_t count = 0;
  for (size_t i = 0; i < chat->messages.len; i++) count += chat->messages.ptr[i].content.len + 2;
  gapura_segment *segments = gapura_alloc(count * sizeof *segments), *next = segments;
  for (size_t i = 0; i < chat->messages.len; i++) {
    const gapura_message *message = &chat->messages.ptr[i];
    gapura_string role = gapura_format("<%s>", describe_role(message->role).ptr);
    *next++ = (gapura_segment){GAPURA_CONTROL, role};
    for (size_t part = 0; part < message->content.len; part++)
      *next++ = (gapura_segment){GAPURA_TEXT, message->content.ptr[part]};
    *next++ = (gapura_segment){.tag = GAPURA_PREFIX_END};
  }
  gapura_prompt prompt = {.segments = {segments, count}, .stop = chat->sampling.stop};
  if (gapura_is(argument(all, 0), "grammar")) prompt.grammar = grammar(all);
  return (gapura_rendered){.prompt = prompt};
}

struct processor {
  char *context;
  unsigned pushes;
};

static void *create(const gapura_context *context) {
  struct processor *processor = calloc(1, sizeof *processor);
  if (processor == NULL) abort();
  processor->context = gapura_copy(describe_context(context));
  return processor;
}

/* The part of `text` before the next `/`, which it then begins behind. */
static gapura_string part(gapura_string *text) {
  const char *slash = memchr(text->ptr, '/', text->len);
  size_t len = slash == NULL ? text->len : (size_t)(slash - text->ptr);
  gapura_string first = {text->ptr, len};
  size_t skipped = slash == NULL ? len : len + 1;
  *text = (gapura_string){text->ptr + skipped, text->len - skipped};
  return first;
}

static gapura_action push(void *self, const gapura_delta *delta) {
  struct processor *processor = self;
  processor->pushes++;
  gapura_string rest = delta->text, name = part(&rest);
  if (gapura_is(name, "hold")) return (gapura_action){.tag = GAPURA_HOLD};
  if (gapura_is(name, "cut")) {
    gapura_finish_reason reason = reason_of(part(&rest));
    return (gapura_action){.tag = GAPURA_CUT, .cut = {reason, rest}};
  }
  if (gapura_is(name, "context")) return gapura_emit(gapura_text(processor->context));
  if (gapura_is(name, "pushes")) return gapura_emit(gapura_format("%u", processor->pushes));
  return gapura_emit(describe_delta(delta));
}

static gapura_action finish(void *self, gapura_finish_reason reason) {
  struct processor *processor = self;
  if (reason == GAPURA_LENGTH) return (gapura_action){.tag = GAPURA_HOLD};
  return gapura_emit(gapura_format("%s %u", describe_reason(reason).ptr, processor->pushes));
}

static void drop(void *self) {
  struct processor *processor = self;
  free(processor->context);
  free(processor);
}

static void completed(const gapura_summary *summary) {
  remember(gapura_text("summary"), describe_summary(summary), NULL);
}

GAPURA_VALIDATOR(validate)
GAPURA_TEMPLATE(render)
GAPURA_RESPONDER(create, push, finish, drop)
GAPURA_OBSERVER(completed)
