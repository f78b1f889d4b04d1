package main

import (
	"fmt"
	"math"
	"strings"

	"gapura"
)

// Descriptions as ../../README.md defines them.

func option[T any](value *T) string {
	if value == nil {
		return "-"
	}
	return fmt.Sprintf("=%v", *value)
}

func list[T any](values []T) string {
	texts := make([]string, len(values))
	for i, value := range values {
		texts[i] = fmt.Sprint(value)
	}
	return "[" + strings.Join(texts, ",") + "]"
}

func milli(number float32) int64 { return int64(math.Floor(float64(number)*1000 + 0.5)) }

func milliOption(number *float32) string {
	if number == nil {
		return "-"
	}
	return fmt.Sprintf("=%d", milli(*number))
}

var (
	roles   = [...]string{"system", "developer", "user", "assistant", "tool"}
	reasons = [...]string{"stop", "length", "content-filter", "tool-calls"}
)

func describeMessage(message gapura.Message) string {
	calls := make([]string, len(message.ToolCalls))
	for i, call := range message.ToolCalls {
		calls[i] = call.ID + "/" + call.Name + "/" + call.Arguments
	}
	parts := []string{roles[message.Role], list(message.Content), option(message.Name), list(calls), option(message.ToolCallID)}
	return strings.Join(parts, ":")
}

func describeSampling(it gapura.Sampling) string {
	return strings.Join([]string{
		option(it.MaxTokens),
		milliOption(it.Temperature),
		milliOption(it.TopP),
		option(it.TopK),
		milliOption(it.MinP),
		option(it.Seed),
		list(it.Stop),
		milliOption(it.PresencePenalty),
		milliOption(it.FrequencyPenalty),
		milliOption(it.RepetitionPenalty),
	}, " ")
}

func describeChat(chat gapura.Chat) string {
	messages := make([]string, len(chat.Messages))
	for i, message := range chat.Messages {
		messages[i] = describeMessage(message)
	}
	return fmt.Sprintf("%s|%s|%s|%s|%t|%s|%s|%s|%s", chat.RequestID, chat.Route, chat.Model,
		option(chat.Tenant), chat.Stream, list(messages), describeSampling(chat.Sampling), chat.Extra, chat.CallID)
}

func describeContext(it gapura.Context) string {
	return fmt.Sprintf("%s|%s|%s|%s|%t|%d|%s|%s", it.RequestID, it.Route, it.Model, option(it.Tenant),
		it.Stream, it.Choice, it.Extra, it.CallID)
}

func describeDelta(delta gapura.Delta) string {
	logprobs := make([]int64, len(delta.Logprobs))
	for i, logprob := range delta.Logprobs {
		logprobs[i] = milli(logprob)
	}
	return fmt.Sprintf("%s|%s|%s", delta.Text, list(delta.TokenIDs), list(logprobs))
}

func describeOutcome(outcome gapura.Outcome) string {
	switch it := outcome.(type) {
	case gapura.Finished:
		return "finished:" + reasons[it.Reason]
	case gapura.Failed:
		return "failed:" + string(it)
	default:
		return "cancelled"
	}
}

func describeSummary(it gapura.Summary) string {
	return fmt.Sprintf("%s|%s|%s|%s|%t|%d|%s|%d|%d|%d|%d|%d|%d|%s|%s", it.RequestID, it.Route, it.Model,
		option(it.Tenant), it.Stream, it.Choice, describeOutcome(it.Outcome), it.PromptTokens,
		it.CachedTokens, it.CompletionTokens, it.Queue, it.Prefill, it.Decode, list(it.Chain), it.CallID)
}
