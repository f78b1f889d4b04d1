;; world: template
;; Asks the model what the client asks before it renders: `depth` where the model says that this
;; asks too deep, else the chat's model.
(import "gapura:plugin/model@0.1.0" "ask"
  (func $ask (param i32 i32 i32 f32 i32 i32 i32 i32 i32)))
(data (i32.const 1024) "\00\00\00\00\80\04\00\00\05\00\00\00")
(data (i32.const 1152) "depth")
(func (export "gapura:plugin/prompt-template@0.1.0#render") (param $chat i32) (result i32)
  (call $ask
    (i32.load offset=40 (local.get $chat)) (i32.load offset=44 (local.get $chat))
    (i32.const 8) (f32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
    (i32.const 512))
  (if (i32.eqz (i32.and (i32.load8_u (i32.const 512))
      (i32.eq (i32.load8_u (i32.const 516)) (i32.const 1)))) (then
    (i32.store (i32.const 1028) (i32.load offset=16 (local.get $chat)))
    (i32.store (i32.const 1032) (i32.load offset=20 (local.get $chat)))))
  (i32.store (i32.const 4) (i32.const 1024))
  (i32.store (i32.const 8) (i32.const 1))
  (i32.const 0))
