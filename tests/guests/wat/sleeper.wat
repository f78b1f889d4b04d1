;; world: sleeper
;; beside: wasi.wit
;; Draws a seed, as Rust's hash maps do under WASI, then sleeps for an hour if the chat's model
;; begins with z.
(import "wasi:random/insecure-seed@0.2.6" "insecure-seed" (func $seed (param i32)))
(import "wasi:clocks/monotonic-clock@0.2.6" "subscribe-duration"
  (func $subscribe (param i64) (result i32)))
(import "wasi:io/poll@0.2.6" "[method]pollable.block" (func $block (param i32)))
(func (export "gapura:plugin/request-validation@0.1.0#validate") (param $chat i32) (result i32)
  (call $seed (i32.const 512))
  (if (i32.eq (i32.load8_u (i32.load offset=16 (local.get $chat))) (i32.const 0x7a)) (then
    (call $block (call $subscribe (i64.const 3600000000000)))))
  (i32.const 0))
