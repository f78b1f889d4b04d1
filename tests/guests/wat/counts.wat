;; world: validator
;; Adds 2 to the counter that the chat's model names, and puts 1.5 into the histogram of that name.
(import "gapura:plugin/metrics@0.1.0" "add" (func $add (param i32 i32 i64)))
(import "gapura:plugin/metrics@0.1.0" "observe" (func $observe (param i32 i32 f64)))
(func (export "gapura:plugin/request-validation@0.1.0#validate") (param $chat i32) (result i32)
  (call $add (i32.load offset=16 (local.get $chat)) (i32.load offset=20 (local.get $chat))
    (i64.const 2))
  (call $observe (i32.load offset=16 (local.get $chat)) (i32.load offset=20 (local.get $chat))
    (f64.const 1.5))
  (i32.const 0))
