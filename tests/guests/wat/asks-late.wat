;; world: responder
;; Asks the model `?` when a delta begins with Q and when the answer ends, and emits what it says, or
;; `!` and the error's number. All other text passes.
;;
;; A message of 44 bytes @1024: role u8 @0, content @4; no name, call or tool.
(import "gapura:plugin/model@0.1.0" "ask"
  (func $ask (param i32 i32 i32 f32 i32 i32 i32 i32 i32)))
(import "[export]gapura:plugin/response-processing@0.1.0" "[resource-new]processor"
  (func $new (param i32) (result i32)))
(data (i32.const 1024) "\02\00\00\00\80\04\00\00\01\00\00\00")
(data (i32.const 1152) "\90\04\00\00\01\00\00\00")
(data (i32.const 1168) "?")
(data (i32.const 1200) "!")
(func $emit (param $from i32) (param $len i32) (result i32)
  (i32.store8 (i32.const 0) (i32.const 0))
  (i32.store (i32.const 4) (local.get $from))
  (i32.store (i32.const 8) (local.get $len))
  (i32.const 0))
(func $answer (result i32)
  (call $ask (i32.const 1024) (i32.const 1) (i32.const 64) (f32.const 0)
    (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 512))
  (if (i32.load8_u (i32.const 512)) (then
    (i32.store8 (i32.const 1201) (i32.add (i32.const 48) (i32.load8_u (i32.const 516))))
    (return (call $emit (i32.const 1200) (i32.const 2)))))
  (call $emit (i32.load (i32.const 516)) (i32.load (i32.const 520))))
(func (export "gapura:plugin/response-processing@0.1.0#[constructor]processor")
  (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
  (call $new (i32.const 1)))
(func (export "gapura:plugin/response-processing@0.1.0#[method]processor.push")
  (param $self i32) (param $text i32) (param $len i32) (param i32 i32 i32 i32) (result i32)
  (if (i32.eq (i32.load8_u (local.get $text)) (i32.const 0x51)) (then (return (call $answer))))
  (call $emit (local.get $text) (local.get $len)))
(func (export "gapura:plugin/response-processing@0.1.0#[method]processor.finish")
  (param i32 i32) (result i32)
  (call $answer))
