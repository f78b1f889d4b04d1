/* What exports a plugin's stages: one macro each, in one source file of the plugin. */
#ifndef GAPURA_STAGES_H
#define GAPURA_STAGES_H

#include "gapura.h"

#ifdef __wasm__
#define GAPURA_EXPORT(name) __attribute__((export_name("gapura:plugin/" name)))
#define GAPURA_AFTER(name) __attribute__((export_name("cabi_post_gapura:plugin/" name)))
#else
#define GAPURA_EXPORT(name)
#define GAPURA_AFTER(name)
#endif

/* Forgets what the call allocated. */
void gapura_forget(void);
/* The processor's handle, which the host holds. */
int32_t gapura_processor_new(void *processor);

/* gapura_validated validate(const gapura_chat *) */
#define GAPURA_VALIDATOR(validate)                                                                 \
  GAPURA_EXPORT("request-validation@0.1.0#validate")                                               \
  gapura_validated *gapura_export_validate(const gapura_chat *chat) {                              \
    static gapura_validated result;                                                                \
    result = validate(chat);                                                                       \
    return &result;                                                                                \
  }                                                                                                \
  GAPURA_AFTER("request-validation@0.1.0#validate")                                                \
  void gapura_after_validate(gapura_validated *result) {                                           \
    (void)result;                                                                                  \
    gapura_forget();                                                                               \
  }

/* gapura_rendered render(const gapura_chat *) */
#define GAPURA_TEMPLATE(render)                                                                    \
  GAPURA_EXPORT("prompt-template@0.1.0#render")                                                    \
  gapura_rendered *gapura_export_render(const gapura_chat *chat) {                                 \
    static gapura_rendered result;                                                                 \
    result = render(chat);                                                                         \
    return &result;                                                                                \
  }                                                                                                \
  GAPURA_AFTER("prompt-template@0.1.0#render")                                                     \
  void gapura_after_render(gapura_rendered *result) {                                              \
    (void)result;                                                                                  \
    gapura_forget();                                                                               \
  }

/* void *create(const gapura_context *): a value of the plugin's own, one for each answer
 * gapura_action push(void *, const gapura_delta *)
 * gapura_action finish(void *, gapura_finish_reason)
 * void drop(void *) */
#define GAPURA_RESPONDER(create, push, finish, drop)                                               \
  GAPURA_EXPORT("response-processing@0.1.0#[constructor]processor")                                \
  int32_t gapura_export_create(const char *id, size_t id_len, const char *route, size_t route_len, \
                               const char *model, size_t model_len, int32_t has_tenant,            \
                               const char *tenant, size_t tenant_len, int32_t stream,              \
                               uint32_t choice, const char *extra, size_t extra_len,               \
                               const char *call, size_t call_len) {                                \
    const gapura_context context = {                                                               \
        {id, id_len},                                                                              \
        {route, route_len},                                                                        \
        {model, model_len},                                                                        \
        {has_tenant != 0, {tenant, tenant_len}},                                                   \
        stream != 0,                                                                               \
        choice,                                                                                    \
        {extra, extra_len},                                                                        \
        {call, call_len},                                                                          \
    };                                                                                             \
    int32_t handle = gapura_processor_new(create(&context));                                       \
    gapura_forget();                                                                               \
    return handle;                                                                                 \
  }                                                                                                \
  GAPURA_EXPORT("response-processing@0.1.0#[method]processor.push")                                \
  gapura_action *gapura_export_push(void *self, const char *text, size_t text_len,                 \
                                    uint32_t *token_ids, size_t num_token_ids, float *logprobs,    \
                                    size_t num_logprobs) {                                         \
    static gapura_action action;                                                                   \
    const gapura_delta delta = {                                                                   \
        {text, text_len}, {token_ids, num_token_ids}, {logprobs, num_logprobs}};                   \
    action = push(self, &delta);                                                                   \
    return &action;                                                                                \
  }                                                                                                \
  GAPURA_AFTER("response-processing@0.1.0#[method]processor.push")                                 \
  void gapura_after_push(gapura_action *action) {                                                  \
    (void)action;                                                                                  \
    gapura_forget();                                                                               \
  }                                                                                                \
  GAPURA_EXPORT("response-processing@0.1.0#[method]processor.finish")                              \
  gapura_action *gapura_export_finish(void *self, int32_t reason) {                                \
    static gapura_action action;                                                                   \
    action = finish(self, (gapura_finish_reason)reason);                                           \
    return &action;                                                                                \
  }                                                                                                \
  GAPURA_AFTER("response-processing@0.1.0#[method]processor.finish")                               \
  void gapura_after_finish(gapura_action *action) {                                                \
    (void)action;                                                                                  \
    gapura_forget();                                                                               \
  }                                                                                                \
  GAPURA_EXPORT("response-processing@0.1.0#[dtor]processor")                                       \
  void gapura_export_drop(void *self) {                                                            \
    drop(self);                                                                                    \
  }

/* void completed(const gapura_summary *) */
#define GAPURA_OBSERVER(completed)                                                                 \
  GAPURA_EXPORT("completion-observer@0.1.0#completed")                                             \
  void gapura_export_completed(const gapura_summary *summary) {                                    \
    completed(summary);                                                                            \
    gapura_forget();                                                                               \
  }

#endif
