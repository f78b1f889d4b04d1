/* Descriptions as ../../../README.md defines them. */
#ifndef DESCRIBE_H
#define DESCRIBE_H

#include "gapura.h"

gapura_string describe_chat(const gapura_chat *chat);
gapura_string describe_context(const gapura_context *context);
gapura_string describe_delta(const gapura_delta *delta);
gapura_string describe_summary(const gapura_summary *summary);

/* `-`, or `=` and the value. */
gapura_string describe_option(gapura_option_string value);
/* A case as the contract spells it. */
gapura_string describe_reason(gapura_finish_reason reason);
gapura_string describe_role(gapura_role role);

#endif
